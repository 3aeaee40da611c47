//! What a client gets: the reply to its own query, in its own terms.

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RData, RecordType};

use crate::answers::{UNKNOWN_TYPE, deny_name};
use crate::authority::Authority;
use crate::client::{ask_over_tcp, ask_this, ask_type, exchange, extended_error_in, message, query};
use crate::proxy::Proxy;
use crate::reaction::Reaction;
use crate::server::Server;

/// A proxy and the one server that it asks, which reacts always in the same way.
async fn asking_one_that(reaction: Reaction) -> (Server, Proxy) {
    let authority = Authority::new();
    let server = Server::tls_that(&authority, move |_, _| reaction).await;
    let proxy = Proxy::asking(&server, &authority);
    (server, proxy)
}

fn without_edns(mut query: Message) -> Message {
    query.edns = None;
    query
}

fn with_dnssec(mut query: Message) -> Message {
    query.edns.as_mut().unwrap().set_dnssec_ok(true);
    query
}

#[tokio::test]
async fn the_id_and_the_letter_case_are_the_clients_also_from_the_cache() {
    let (server, proxy) = asking_one_that(Reaction::Answer).await;
    for (id, name) in [(1, "www.example.com."), (0, "WwW.eXample.COM."), (65_535, "WWW.EXAMPLE.com.")] {
        let reply = ask_this(proxy.address, &message(id, name, RecordType::A)).await;
        let asked = Name::from_ascii(name).unwrap();
        assert!(reply.queries[0].name().eq_case(&asked), "{reply}");
        assert!(reply.answers[0].name.eq_case(&asked), "{reply}");
    }
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn rd_and_cd_are_as_asked_and_ra_is_set() {
    let (_server, proxy) = asking_one_that(Reaction::Answer).await;
    for (index, (desired, disabled)) in [(true, true), (true, false), (false, true), (false, false)].iter().enumerate()
    {
        let mut query = message(7, &format!("n{index}.example.com."), RecordType::A);
        (query.metadata.recursion_desired, query.metadata.checking_disabled) = (*desired, *disabled);
        let flags = ask_this(proxy.address, &query).await.metadata;
        assert_eq!((flags.recursion_desired, flags.checking_disabled), (*desired, *disabled));
        assert!(flags.recursion_available && !flags.authoritative);
    }
}

#[tokio::test]
async fn only_who_sent_an_opt_gets_one() {
    let (server, proxy) = asking_one_that(Reaction::Answer).await;
    let query = message(7, "www.example.com.", RecordType::A);
    for _ in 0..2 {
        assert!(ask_this(proxy.address, &query).await.edns.is_some());
        assert!(ask_this(proxy.address, &without_edns(query.clone())).await.edns.is_none());
    }
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn the_upstreams_opt_is_not_the_clients() {
    let (_server, proxy) = asking_one_that(Reaction::Altered(|reply| {
        let edns = reply.edns.as_mut().unwrap();
        edns.set_max_payload(512);
        edns.options_mut().insert(EdnsOption::Unknown(10, vec![1; 8]));
        edns.options_mut().insert(EdnsOption::Unknown(65_001, b"upstream".to_vec()));
    }))
    .await;
    let reply = ask_type(proxy.address, "www.example.com.", RecordType::A).await;
    let edns = reply.edns.unwrap();
    assert_eq!((edns.max_payload(), edns.options().as_ref().len()), (1232, 0), "{edns:?}");
}

#[tokio::test]
async fn dnssec_ok_comes_back_to_who_set_it() {
    let (_server, proxy) = asking_one_that(Reaction::Answer).await;
    let query = message(7, "www.example.com.", RecordType::A);
    for _ in 0..2 {
        let with = ask_this(proxy.address, &with_dnssec(query.clone())).await;
        assert!(with.edns.unwrap().flags().dnssec_ok);
        let without = ask_this(proxy.address, &query).await;
        assert!(!without.edns.unwrap().flags().dnssec_ok);
    }
}

#[tokio::test]
async fn ad_is_told_to_who_asked_by_ad_or_do_and_to_nobody_else() {
    let (_server, proxy) = asking_one_that(Reaction::Altered(|reply| reply.metadata.authentic_data = true)).await;
    let query = message(7, "www.example.com.", RecordType::A);
    let mut by_ad = query.clone();
    by_ad.metadata.authentic_data = true;
    for _ in 0..2 {
        assert!(!ask_this(proxy.address, &query).await.metadata.authentic_data);
        assert!(ask_this(proxy.address, &by_ad).await.metadata.authentic_data);
        assert!(ask_this(proxy.address, &without_edns(by_ad.clone())).await.metadata.authentic_data);
        assert!(ask_this(proxy.address, &with_dnssec(query.clone())).await.metadata.authentic_data);
    }
}

#[tokio::test]
async fn ad_is_not_made_up() {
    let (_server, proxy) = asking_one_that(Reaction::Answer).await;
    let query = with_dnssec(message(7, "www.example.com.", RecordType::A));
    assert!(!ask_this(proxy.address, &query).await.metadata.authentic_data);
}

#[tokio::test]
async fn an_unknown_version_of_edns_is_answered_badvers_and_asked_of_nobody() {
    let (server, proxy) = asking_one_that(Reaction::Answer).await;
    let mut query = message(7, "www.example.com.", RecordType::A);
    query.edns.as_mut().unwrap().set_version(1);
    let reply = ask_this(proxy.address, &query).await;
    assert_eq!(u16::from(reply.metadata.response_code), 16);
    assert_eq!(reply.edns.map(|edns| edns.version()), Some(0));
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn two_questions_and_none_are_answered_formerr() {
    let (server, proxy) = asking_one_that(Reaction::Answer).await;
    let mut two = message(7, "www.example.com.", RecordType::A);
    two.add_queries(message(7, "mail.example.com.", RecordType::A).queries);
    let mut none = message(7, "www.example.com.", RecordType::A);
    none.queries.clear();
    for query in [two, none] {
        assert_eq!(ask_this(proxy.address, &query).await.metadata.response_code, ResponseCode::FormErr);
    }
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn a_response_is_not_answered() {
    let (_server, proxy) = asking_one_that(Reaction::Answer).await;
    let mut response = query(1, "www.example.com.", RecordType::A);
    response[2] |= 0x80;
    let valid = query(2, "www.example.com.", RecordType::A);
    let first = exchange(proxy.address, &[&response, &valid]).await;
    assert_eq!(Message::from_vec(&first).unwrap().metadata.id, 2);
    assert_eq!(proxy.metric("dot_proxy_dropped_total{reason=\"not-a-query\"}").await, 1);
}

#[tokio::test]
async fn other_operations_than_query_are_not_implemented() {
    let (server, proxy) = asking_one_that(Reaction::Answer).await;
    const NOTIFY: u8 = 4 << 3;
    let mut bytes = query(7, "www.example.com.", RecordType::A);
    bytes[2] |= NOTIFY;
    let reply = exchange(proxy.address, &[&bytes]).await;
    assert_eq!((reply[2] & 0x78, reply[3] & 0x0f), (NOTIFY, 4), "{reply:?}");
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn the_upstreams_extended_error_is_passed_on() {
    const PROHIBITED: u16 = 18;
    let (_server, proxy) = asking_one_that(Reaction::Altered(|reply| {
        deny_name(reply);
        let data = [&PROHIBITED.to_be_bytes()[..], b"not for you"].concat();
        reply.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Unknown(15, data));
    }))
    .await;
    for _ in 0..2 {
        let reply = ask_type(proxy.address, "www.example.com.", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(extended_error_in(&reply), Some((PROHIBITED, "not for you".to_owned())));
    }
}

#[tokio::test]
async fn an_extended_response_code_of_the_upstreams_is_not_taken_for_another() {
    const BADCOOKIE: u16 = 23; // its lower four bits are YXRRSET's
    let (_server, proxy) = asking_one_that(Reaction::Altered(|reply| {
        reply.answers.clear();
        reply.metadata.response_code = ResponseCode::from(1, 7);
    }))
    .await;
    let code = ask_type(proxy.address, "www.example.com.", RecordType::A).await.metadata.response_code;
    assert!([u16::from(ResponseCode::ServFail), BADCOOKIE].contains(&code.into()), "{code}");
}

#[tokio::test]
async fn an_unknown_type_is_carried_untouched() {
    // What looks like a compression pointer in it is data.
    const DATA: [u8; 6] = [0xc0, 12, 0, 0xff, 0x3f, b'A'];
    let (_server, proxy) = asking_one_that(Reaction::Altered(|reply| {
        let RData::Unknown { rdata, .. } = &mut reply.answers[0].data else { panic!("{reply}") };
        *rdata = hickory_proto::rr::rdata::NULL::with(DATA.to_vec());
    }))
    .await;
    for _ in 0..2 {
        let reply = ask_type(proxy.address, "www.example.com.", UNKNOWN_TYPE).await;
        let RData::Unknown { code, rdata } = &reply.answers[0].data else { panic!("{reply}") };
        assert_eq!((*code, &rdata.anything[..]), (UNKNOWN_TYPE, &DATA[..]));
    }
}

#[tokio::test]
async fn the_longest_answer_there_is_survives_over_tcp_and_is_truncated_over_udp() {
    let (_server, proxy) = asking_one_that(Reaction::Answer).await;
    let query = message(7, "www.example.com.", UNKNOWN_TYPE);
    for _ in 0..2 {
        let reply = ask_over_tcp(proxy.address, &query).await;
        assert_eq!(reply.to_vec().unwrap().len(), 65_535);
        let RData::Unknown { rdata, .. } = &reply.answers[0].data else { panic!("{reply}") };
        assert!(rdata.anything.iter().all(|byte| *byte == 0xc0));
        let reply = ask_this(proxy.address, &query).await;
        assert!(reply.metadata.truncation && reply.answers.is_empty());
    }
}

#[tokio::test]
async fn over_udp_no_reply_is_longer_than_the_client_takes_or_1232_octets() {
    let (_server, proxy) = asking_one_that(Reaction::Altered(|reply| {
        // 16 octets each: 1,280 together, or 320.
        let count = if reply.queries[0].name().to_string().starts_with("long") { 80 } else { 20 };
        reply.answers = std::iter::repeat_n(reply.answers[0].clone(), count).collect();
    }))
    .await;
    let asked = async |name: &str, payload: Option<u16>| {
        let mut query = message(7, name, RecordType::A);
        query.edns = payload.map(|payload| Edns::new().set_max_payload(payload).clone());
        let reply = exchange(proxy.address, &[&query.to_vec().unwrap()]).await;
        (Message::from_vec(&reply).unwrap().metadata.truncation, reply.len())
    };
    for (name, payload, truncated) in [
        ("long.example.com.", Some(65_535), true),
        ("long.example.com.", Some(1232), true),
        ("short.example.com.", None, false),
        ("short.example.com.", Some(0), false),
        ("short.example.com.", Some(512), false),
    ] {
        let (truncation, length) = asked(name, payload).await;
        assert_eq!(truncation, truncated, "{name} {payload:?}: {length} octets");
        assert!(length <= payload.unwrap_or(0).clamp(512, 1232).into());
    }
}
