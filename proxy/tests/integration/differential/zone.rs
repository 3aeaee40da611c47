//! A zone with something of everything.

use std::fmt::Write as _;

/// The zone's name.
pub const ORIGIN: &str = "example.com.";

/// How many names there are of each kind.
pub const EACH: usize = 60;

/// The zone as a master file (RFC 1035 §5).
pub fn master_file() -> String {
    let mut zone = format!("$ORIGIN {ORIGIN}\n$TTL 300\n{FIXED}");
    for index in 0..EACH {
        let next = (index + 1) % EACH;
        for line in [
            format!("host{index} A 192.0.2.{index}"),
            format!("host{index} AAAA 2001:db8::{index}"),
            format!("host{index} TXT \"host {index}\""),
            format!("many{index} 60 A 198.51.100.1\nmany{index} 60 A 198.51.100.2\nmany{index} 60 A 198.51.100.3"),
            format!("mail{index} MX 10 host{index}\nmail{index} MX 20 host{next}"),
            format!("_sip._tcp.service{index} SRV 1 2 5060 host{index}"),
            format!("alias{index} CNAME host{index}"),
            format!("dangling{index} CNAME missing{index}"),
            format!("away{index} CNAME www.example.net."),
            format!("chain{index}-0 CNAME chain{index}-1\nchain{index}-1 CNAME chain{index}-2"),
            format!("chain{index}-2 CNAME chain{index}-3\nchain{index}-3 CNAME host{index}"),
            format!("signed{index} A 203.0.113.{index}"),
            format!("signed{index} RRSIG A 13 3 300 20380101000000 20200101000000 1 {ORIGIN} {}", "QUJD".repeat(16)),
            format!("text{index} TXT {}", format!("\"{}\" ", "t".repeat(50 + index)).repeat(1 + index)),
            format!("unknown{index} TYPE65280 \\# 6 c00c00{index:02x}ffff"),
            format!("deep.inside.empty{index} A 192.0.2.1"),
        ] {
            writeln!(zone, "{line}").unwrap();
        }
    }
    zone
}

const FIXED: &str = "\
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
@ NS ns2
@ A 192.0.2.1
@ MX 10 mail
@ CAA 0 issue \"ca.example.net\"
@ TXT \"v=spf1 -all\" \"second string\"
@ DNSKEY 257 3 13 QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0NTY3ODk=
@ NSEC3PARAM 1 0 0 -
ns A 192.0.2.2
ns2 AAAA 2001:db8::53
mail A 192.0.2.3
www HTTPS 1 . alpn=h2,h3 ipv4hint=192.0.2.4
www A 192.0.2.4
_dns SVCB 1 dns.example.net. alpn=dot
*.wild A 192.0.2.5
*.wild TXT \"any\"
moved DNAME host-moved
a.host-moved A 192.0.2.6
child DS 1 13 2 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
child TXT \"no delegation\"
_443._tcp.www TLSA 3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
ssh SSHFP 4 2 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
number NAPTR 100 10 \"u\" \"E2U+sip\" \"!^.*$!sip:info@example.com!\" .
machine HINFO \"CPU\" \"OS\"
place LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m
reverse PTR host1
";
