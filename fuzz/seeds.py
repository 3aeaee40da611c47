#!/usr/bin/env python3
"""Makes the messages that fuzzing begins with, from real programs: what dig and kdig send, what unbound answers, and what
kdig writes about it; and, where no program here says something, what dnspython makes of its text.

    fuzz/seeds.py DIRECTORY      one folder for each target, and for the queries and responses themselves

Needs Debian's packages bind9-dnsutils, knot-dnsutils, unbound, python3-dnspython and python3-yaml. Everything stays on
loopback.
"""

import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import yaml

TOP = pathlib.Path(__file__).resolve().parent.parent
OUT = pathlib.Path(sys.argv[1])
# The names that the targets' own cache knows, those that policy answers, and one that it would have to ask for.
NAMES = ["a.example", "long.example", "empty.example", "no.example", "x.no.example", "bad.example", "localhost", "x.onion",
         "www.example.com", "www.example.com.cluster.local", "kubernetes.default.svc.cluster.local", "bare", ".",
         "9.2.0.192.in-addr.arpa", "_dns.resolver.arpa"]
ZONE = """
example. 3600 SOA ns.example. host.example. 1 2 3 4 300
example. 3600 NS ns.example.
example. 3600 MX 10 mail.example.
example. 3600 TXT "v=spf1 -all" "second"
example. 3600 CAA 0 issue "ca.example"
example. 3600 DNSKEY 257 3 13 mdsswUyr3DPW132mOi8V9xESWE8jTo0dxCjjnopKl+GqJxpVXckHAeF+KkxLbxILfDLUT0rAK9iUzy1L53eKGQ==
example. 3600 DS 12345 13 2 3490A6806D47F17A34C29E2CE80E8A999FFBE4BE6C7A24A6D4D5E0C1B0E2F1A3
ns.example. 3600 A 198.51.100.53
ns.example. 3600 AAAA 2001:db8::53
mail.example. 60 A 198.51.100.25
www.example. 300 CNAME web.example.
web.example. 300 A 198.51.100.80
web.example. 300 AAAA 2001:db8::80
web.example. 300 HTTPS 1 . alpn=h2,h3 ipv4hint=198.51.100.80
_dns.example. 300 SVCB 1 dot.example. alpn=dot port=853
_sip._tcp.example. 300 SRV 1 2 5060 sip.example.
sip.example. 300 NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:info@example!" .
h.example. 300 HINFO "cpu" "os"
t.example. 300 TLSA 3 1 1 0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF
s.example. 300 SSHFP 4 2 123456789ABCDEF67890123456789ABCDEF67890123456789ABCDEF123456789
p.example. 300 PTR web.example.
d.example. 300 DNAME web.example.
l.example. 300 LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m
n.example. 300 NSEC o.example. A RRSIG NSEC
n3.example. 300 NSEC3 1 1 12 aabbccdd 2t7b4g4vsa5smi47k61mv5bv1a22bojr MX DNSKEY NS SOA NSEC3PARAM RRSIG
r.example. 300 RRSIG A 13 2 300 20300101000000 20260101000000 12345 example. mdsswUyr3DPW132mOi8V9xESWE8jTo0dxCjjnopKl+GqJxpVXckHAeF+KkxLbxILfDLUT0rAK9iUzy1L53eKGQ==
u.example. 300 TYPE65300 \\# 4 0a000001
""" + "".join(f"many.example. 300 A 198.51.100.{last}\n" for last in range(60))

kept = {}


def keep(target, octets):
    kept.setdefault(target, []).append(octets)


def frame(message):
    return len(message).to_bytes(2, "big") + message


class Sink(threading.Thread):
    """Takes datagrams and answers none."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.seen = []
        self.start()

    def run(self):
        while True:
            self.seen.append(self.socket.recv(65535))


def sent_by_programs():
    """What dig and kdig send."""
    sink = Sink()
    dig = ["dig", "@127.0.0.1", "-p", str(sink.port), "+tries=1", "+timeout=1", "+ignore"]
    kdig = ["kdig", "@127.0.0.1", "-p", str(sink.port), "+retry=0", "+timeout=1", "+ignore"]
    asked = [dig + [name] for name in NAMES] + [
        dig + ["a.example", *more.split()] for more in (
            "AAAA +dnssec", "+noedns", "+cdflag +adflag", "+nocookie", "+subnet=198.51.100.0/24", "+nsid +expire", "+padding=128",
            "+keepalive", "+edns=1 +noednsneg", "+ednsopt=65001:00ff", "+header-only", "+norecurse", "+opcode=NOTIFY", "+opcode=UPDATE",
            "ANY", "HTTPS", "CH TXT", "+bufsize=4096", "+bufsize=0", "TYPE65300", "+ednsflags=0x8001", "+zflag", "+tcflag", "+aaflag")
    ] + [kdig + more.split() for more in (
        "A.EXAMPLE +dnssec +cookie", "-x 198.51.100.1", "long.example +edns=0 +padding", "no.example +noedns", "example AXFR +notcp",
        "a.example +subnet=2001:db8::/32", "\\000\\255.example", "a.example +cdflag +nsid")]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in asked]
    for process in running:
        process.wait()
    return sink.seen


def made_queries():
    long = dns.name.from_text(".".join(["a" * 63] * 3 + ["b" * 59]))
    for name in (long, dns.name.from_text("%c.wWw.eXample.cOm" % 120)):
        yield dns.message.make_query(name, "A", use_edns=0).to_wire()
    query = dns.message.make_query("a.example", "A", use_edns=0)
    query.additional.append(dns.rrset.from_text("a.example.", 0, "IN", "A", "198.51.100.1"))
    yield query.to_wire()
    query.answer.append(dns.rrset.from_text("www.a.example.", 0, "IN", "CNAME", "a.example."))
    query.authority.append(dns.rrset.from_text("a.example.", 0, "IN", "SOA", "ns.a.example. h.a.example. 1 2 3 4 5"))
    yield query.to_wire()
    two = dns.message.make_query("a.example", "A")
    two.question.append(dns.rrset.RRset(dns.name.from_text("b.example"), 1, 28))
    yield two.to_wire()
    yield dns.message.make_response(dns.message.make_query("a.example", "A")).to_wire()
    yield b"\0" * 12
    yield dns.message.make_query("a.example", "A").to_wire() + b"trailing"


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Unbound:
    """A resolver that knows the zone above."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.port = free_port()
        folder = pathlib.Path(self.folder.name)
        (folder / "zone").write_text(ZONE)
        (folder / "unbound.conf").write_text(f"""
server:
  interface: 127.0.0.1
  port: {self.port}
  directory: "{folder}"
  username: ""
  chroot: ""
  pidfile: ""
  use-syslog: no
  access-control: 127.0.0.0/8 allow
  rrset-roundrobin: no
  outgoing-interface: 127.0.0.1
  do-not-query-address: 0.0.0.0/0
  do-not-query-address: ::/0
  ede: yes
  edns-tcp-keepalive: yes
  minimal-responses: no
  module-config: "iterator"
  local-zone: "refused.test." refuse
auth-zone:
  name: "example."
  zonefile: "zone"
  for-upstream: no
  for-downstream: yes
""")
        self.process = subprocess.Popen(["/usr/sbin/unbound", "-d", "-p", "-c", folder / "unbound.conf"])
        deadline = time.time() + 10
        while time.time() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return self
            except OSError:
                time.sleep(0.05)
        raise SystemExit("unbound did not start")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()

    def ask(self, query):
        with socket.create_connection(("127.0.0.1", self.port), 5) as stream:
            stream.sendall(frame(query))
            length = int.from_bytes(stream.recv(2, socket.MSG_WAITALL), "big")
            return stream.recv(length, socket.MSG_WAITALL)


def answered_by(unbound):
    """What unbound answers to questions of every type that the zone has, and to some that it has not."""
    questions = [(line.split()[0], line.split()[2]) for line in ZONE.split("\n") if line]
    questions += [("www.example.", "A"), ("www.example.", "MX"), ("nothing.example.", "A"), ("web.example.", "TXT"), ("x.d.example.", "A"),
                  ("many.example.", "A"), ("refused.test.", "A"), ("example.", "ANY"), ("WwW.eXample.", "AAAA")]
    for name, rdtype in dict.fromkeys(questions):
        for dnssec in (False, True):
            query = dns.message.make_query(name, rdtype, want_dnssec=dnssec, use_edns=0, options=[dns.edns.GenericOption(11, b"")])
            yield unbound.ask(query.to_wire())


def made_responses():
    """What unbound does not say: of www.example.com, whose address is asked for where a message has no question."""
    def respond(rcode=0, answer=(), authority=(), additional=(), options=(), flags=0):
        query = dns.message.make_query("wWw.example.com", "A", use_edns=0)
        response = dns.message.make_response(query, recursion_available=True)
        response.set_rcode(rcode)
        response.flags |= flags
        for section, texts in ((response.answer, answer), (response.authority, authority), (response.additional, additional)):
            for text in texts:
                name, ttl, rdclass, rdtype, rest = text.split(" ", 4)
                section.append(dns.rrset.from_text(name, int(ttl), rdclass, rdtype, rest))
        response.use_edns(0, 0, 1232, options=list(options)) if options is not None else response.use_edns(-1)
        return response.to_wire()
    soa = "example.com. 900 IN SOA ns.example.com. host.example.com. 1 2 3 4 60"
    address = "www.example.com. 300 IN A 198.51.100.1"
    option = dns.edns.GenericOption
    signature = "RRSIG SOA 13 2 300 20300101000000 20260101000000 12345 example.com. mdsswUyr3DPW132mOi8V9xESWE8jTo0d"
    yield respond(answer=[address])
    yield respond(answer=[address], options=None)
    yield respond(answer=[address], flags=dns.flags.AD | dns.flags.CD)
    yield respond(flags=dns.flags.TC)
    yield respond(answer=["www.example.com. 5 IN CNAME b.example.net.", "b.example.net. 4294967295 IN A 198.51.100.1"])
    yield respond(rcode=3, authority=[soa])
    yield respond(rcode=3, authority=[soa, f"example.com. 60 IN {signature}", "a.example.com. 60 IN NSEC z.example.com. A RRSIG NSEC"])
    yield respond(rcode=3, answer=["www.example.com. 5 IN CNAME gone.example.com."], authority=[soa])
    yield respond(authority=[soa], options=[option(15, b"\0\x16no reachable authority")])
    yield respond(rcode=2, options=[option(15, b"\0\x09"), option(15, b"\0\x06bogus"), option(11, b"\0\x64")])
    yield respond(answer=[address], additional=["ns.example.com. 5 IN A 198.51.100.53"], options=[option(12, b"\0" * 100), option(3, b"id"), option(10, b"8" * 16)])
    yield respond(rcode=5, options=None)[:4] + b"\0" * 8
    yield respond(rcode=16)
    yield respond(answer=[address, "www.example.com. 300 CH TXT \"class\"", "www.example.com. 300 IN TYPE65000 \\# 0"])


def dns_seeds():
    queries = list(dict.fromkeys(list(sent_by_programs()) + list(made_queries())))
    for index, query in enumerate(queries):
        keep("queries", query)
        keep("client_message", bytes([index % 8]) + query)
        keep("client_message", bytes([(index + 1) % 2]) + query)
    with Unbound() as unbound:
        responses = list(answered_by(unbound)) + list(made_responses())
        keep_exchanges(unbound)
    for index, response in enumerate(responses):
        keep("responses", response)
        keep("upstream_message", bytes([index * 37 % 256, index * 11 % 256]) + response)
    http_seeds(responses[::3])
    for index in range(0, len(queries) - 4, 3):
        pieces = [b"", bytes([1, 0, 3]), bytes([200]), bytes([0, 255, 2, 0, 7])][index % 4]
        keep("client_frames", bytes([len(pieces)]) + pieces + b"".join(map(frame, queries[index:index + 4])))
    keep("client_frames", b"\0" + frame(queries[0]) + frame(b"") + frame(queries[1]))
    keep("client_frames", b"\0" + frame(queries[0]) + b"\xff\xff")
    keep("client_frames", b"\0" + frame(queries[0]) + frame(queries[1])[:-3])
    asked = [b"\x01a\0\0\x01\0\x01", b"\x01a\0\0\x1c\0\x01", b"\x03wWw\x07example\x03com\0\0\x01\0\x01"]
    for index in range(12):
        pieces = [b"", bytes([1, 0, 3]), bytes([200]), bytes([0, 255, 2, 0, 7])][index % 4]
        order = [(index + step) % 3 for step in range(1 + index % 4)]
        head = [b"\x81\x80\0\1\0\0\0\0\0\0", b"\x81\x80\0\1\0\1\0\0\0\0", b"\x81\x82\0\0\0\0\0\0\0\0"][index % 3]
        record = [b"", b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\xc6\x33\x64\1", b""][index % 3]
        messages = [frame(number.to_bytes(2, "big") + head + (b"" if index % 3 == 2 else asked[number]) + record) for number in order]
        keep("upstream_frames", bytes([len(pieces)]) + pieces + b"".join(messages))
    keep("upstream_frames", b"\0" + frame(b"\0\7" + b"\x81\x80\0\1\0\0\0\0\0\0" + asked[0]) + frame(b"") + frame(b"\0"))


def keep_exchanges(unbound):
    """What kdig writes about its exchanges."""
    for asked in ("web.example A", "nothing.example AAAA", "example TXT", "many.example A", "web.example A +noedns", "nothing.example AAAA +tcp",
                  "example TXT +cdflag"):
        with tempfile.NamedTemporaryFile() as file:
            command = ["kdig", "@127.0.0.1", "-p", str(unbound.port), "+adflag", "+padding", "-E", file.name, *asked.split()]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            which = ["web.example", "nothing.example", "example"].index(asked.split()[0]) if "many" not in asked else 0
            keep("kdig_output", bytes([which + (16 if "+cd" in asked else 0)]) + pathlib.Path(file.name).read_bytes())


def http_seeds(messages):
    """Responses with these messages, as HTTP/2 brings them, and as curl writes them."""
    heads = [[], [("age", "7")], [("cache-control", "max-age=60")], [("cache-control", 'private, Max-Age="60"'), ("age", "7")], [("cache-control", "no-store")],
             [("content-encoding", "gzip")], [("content-type", "text/html")]]
    for index, message in enumerate(messages):
        headers = dict([("content-type", "application/dns-message"), *heads[index % len(heads)]])
        message = b"\0\0" + message[2:]
        lines = "".join(f"{name}: {value}\n" for name, value in headers.items())
        keep("http_response", b"\0" + (200).to_bytes(2, "big") + lines.encode() + b"\n" + message)
        written = ["200"] + [headers.get(name, "") for name in ("content-type", "content-encoding", "age", "cache-control", "retry-after")]
        keep("http_response", b"\1" + message + "".join("\n" + line for line in written).encode())
    for status, header in ((429, "retry-after: 5"), (503, "retry-after: Wed, 21 Oct 2026 07:28:00 GMT"), (301, "location: /"), (405, "allow: GET")):
        keep("http_response", b"\0" + status.to_bytes(2, "big") + header.encode() + b"\n\n")


CONFIGURATIONS = """
{}
---
upstream: {servers: [cloudflare, quad9, google], strategy: round-robin}
---
upstream:
  servers: ["tls://198.51.100.53:8853#dns.example", "tls://[2001:db8::53]#dns.example"]
  strategy: ordered
  idleSeconds: 30
  pins: ["sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
  clientCertificate: {certificateFile: /etc/tls/tls.crt, keyFile: /etc/tls/tls.key}
---
listen: {host: "::", port: 1053, connections: 10, allow: [198.51.100.0/24, "2001:db8::/32", 198.51.100.1]}
admin: {address: "[::]:9853"}
log: {format: json, level: debug}
threads: 4
---
routes:
- suffixes: [cluster.local, 10.in-addr.arpa]
  servers: ["udp://10.96.0.10", "udp://[fd00::10]:5353"]
- {suffixes: [corp.example], servers: ["tls://198.51.100.54#corp.example"], strategy: fastest}
cluster: {domain: cluster.local}
---
cache: {size: 16Mi, minTtlSeconds: 5, maxTtlSeconds: 3600, staleSeconds: 0, prefetch: false}
query: {deadlineMilliseconds: 2000, inFlight: 64}
---
upstream: {servers: ["https://198.51.100.53/dns-query#dns.example"], protocol: doh, caFile: /etc/ca.pem}
---
upstream: {servers: ["udp://198.51.100.53"]}
---
upstream: {server: cloudflare}
---
routes: [{suffixes: [a.example, A.example.], servers: [cloudflare]}]
---
listen: {port: 70000}
---
cache: {size: "0"}
---
cache: {size: 64kb}
---
&a [*a, !!str x, "\\u0041", 'it''s', |
 text
]
---
- 1
- .inf
- 0x10
- ~
""".strip().split("\n---\n")


def configuration_seeds():
    for text in CONFIGURATIONS:
        keep("configuration", text.encode())
        try:
            keep("configuration", json.dumps(yaml.safe_load(text)).encode())
        except (yaml.YAMLError, ValueError, TypeError):
            pass
    certificate = "-----BEGIN CERTIFICATE-----\n  MIIBAAAA\n  -----END CERTIFICATE-----"
    keep("configuration", f"upstream:\n  ca: |\n  {certificate}\n".encode())
    keep("configuration", written_config().encode())


def golden():
    text = (TOP / "injector/src/inject/snapshots/dot_injector__inject__tests__an_injected_pod_is_this_pod.snap").read_text()
    return json.loads(text.split("---\n", 2)[2])


def written_config():
    return golden()["metadata"]["annotations"]["dot-sidecar.io/config"]


ANNOTATIONS = [
    {"inject": "true"}, {"inject": "false"}, {"inject": "perhaps"}, {"injct": "true"}, {"inject": "true", "profile": "default"},
    {"inject": "true", "upstream": "quad9, tls://198.51.100.53:8853#dns.example,google"}, {"upstream": "udp://198.51.100.53"}, {"upstream": "tls://[2001:db8::1]#a.b"},
    {"inject": "true", "log-level": "debug", "cpu-request": "10m", "cpu-limit": "0.5", "memory-request": "32Mi", "memory-limit": "1e9"},
    {"memory-limit": "128974848"}, {"memory-limit": "123456789123456789123Ei"}, {"cpu-request": "-1"}, {"cpu-limit": "5e-3"}, {"memory-request": "0.5Gi"},
    {"image": "registry.example/dot-proxy@sha256:0123"}, {"image": "a b"}, {"status": "{}", "config": "{}"}, {"zebra-crossing": "1"}]


def annotation_seeds():
    for annotations in ANNOTATIONS:
        keep("annotations", "\n".join(f"dot-sidecar.io/{name}={value}" for name, value in annotations.items()).encode())
    keep("annotations", b"example.com/other=1\n!dot-sidecar.io/inject=true\n!app=web\n!dot-sidecar.io/injected=true")


def review(pod, **more):
    request = {"uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "resource": {"group": "", "version": "v1", "resource": "pods"}, "name": "web",
               "namespace": "shop", "operation": "CREATE", "object": pod, "dryRun": False, **more}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


SPECS = [
    {}, {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["198.51.100.53"], "searches": ["a.example"]}},
    {"dnsConfig": {"searches": ["team.example", "."], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}},
    {"hostNetwork": True}, {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}, {"dnsPolicy": "Default"}, {"os": {"name": "windows"}},
    {"securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}], "runAsUser": 1000, "runAsNonRoot": True}},
    {"securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}]}},
    {"initContainers": [{"name": "init", "image": "i"}, {"name": "mesh", "image": "m", "restartPolicy": "Always"}]},
    {"initContainers": [{"name": "dot-proxy", "image": "mine"}]},
    {"containers": [{"name": "app", "image": "a", "ports": [{"containerPort": 53, "protocol": "UDP"}]}]},
    {"containers": [{"name": "app", "image": "a", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}}]},
    {"containers": [{"name": "app", "image": "a", "volumeMounts": [{"name": "v", "mountPath": "/etc/resolv.conf"}]}], "volumes": [{"name": "v", "emptyDir": {}}]},
    {"resources": {"limits": {"cpu": "2", "memory": "2Gi"}}}, {"ephemeralContainers": [{"name": "debug", "image": "d"}]}]


def review_seeds():
    for index, spec in enumerate(SPECS):
        annotations = {f"dot-sidecar.io/{name}": value for name, value in ANNOTATIONS[index % len(ANNOTATIONS)].items()}
        for asked in ({"dot-sidecar.io/inject": "true"}, {"dot-sidecar.io/inject": "true", **annotations}, annotations):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "annotations": asked},
                   "spec": {"containers": [{"name": "app", "image": "registry.example/app:1"}], "dnsPolicy": "ClusterFirst", **spec}}
            keep("admission_review", bytes([index % 2]) + json.dumps(review(pod), separators=(",", ":")).encode())
    pod = golden()
    keep("admission_review", b"\0" + json.dumps(review(pod), separators=(",", ":")).encode())
    pod["spec"]["initContainers"].append({"name": "late", "image": "l"})
    pod["spec"]["initContainers"].reverse()
    keep("admission_review", b"\1" + json.dumps(review(pod), separators=(",", ":")).encode())
    keep("admission_review", b"\0" + json.dumps(review(pod, operation="UPDATE")).encode())
    keep("admission_review", b"\0" + json.dumps(review(pod, resource={"group": "apps", "version": "v1", "resource": "deployments"})).encode())
    keep("admission_review", b"\0" + json.dumps(dict(review(pod), apiVersion="admission.k8s.io/v1beta1")).encode())
    for document in yaml.safe_load_all((TOP / "manifests/examples/pod.yaml").read_text()):
        keep("admission_review", b"\0" + json.dumps(review(document)).encode())


def main():
    dns_seeds()
    configuration_seeds()
    annotation_seeds()
    review_seeds()
    for target, inputs in kept.items():
        folder = OUT / target
        folder.mkdir(parents=True, exist_ok=True)
        for index, octets in enumerate(dict.fromkeys(inputs)):
            (folder / f"seed-{index:03}").write_bytes(octets)
        print(f"{target}: {len(inputs)} seeds")


main()
