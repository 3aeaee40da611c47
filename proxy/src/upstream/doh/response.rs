//! What the head of an HTTP response says of the answer in its body (RFC 8484 §4.2, §5.1).

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};
use hyper::http::response::Parts;

use crate::wire::request::Question;
use crate::wire::{self, response as answer};

/// The media type of questions and answers.
pub(in crate::upstream) const MEDIA_TYPE: &str = "application/dns-message";

/// How long a server that is busy is left alone where it does not say, or says less.
const BUSY_LEAST: Duration = Duration::from_secs(1);

/// However long it says, it is tried again after this.
const BUSY_MOST: Duration = Duration::from_secs(30);

/// What a response is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum Verdict {
    /// Its body is an answer, which caches have kept for `age` seconds already and would keep for `fresh_for` more.
    Answer { age: u32, fresh_for: Option<u32> },
    /// Its body is something else.
    NoMessage,
    /// The server is asked too much, and is to be left alone for so long.
    Busy { pause: Duration },
    /// The server does not take this method.
    NoSuchMethod,
    /// Another status, among them redirects: whoever they lead to has not proved to be the server that was configured.
    OtherStatus,
}

/// Makes an answer's body the answer that it is by now; false where it is no answer to the question.
pub(in crate::upstream) fn take_answer(
    body: &mut [u8],
    question: Question<'_>,
    age: u32,
    fresh_for: Option<u32>,
) -> bool {
    let is_answer = wire::id(body) == Some(0) && answer::answers(body, question);
    if is_answer {
        answer::shorten(body, age, fresh_for);
    }
    is_answer
}

/// Judges by the head alone.
pub(in crate::upstream) fn judge(head: &Parts) -> Verdict {
    match head.status {
        StatusCode::OK if !is_message(&head.headers) => Verdict::NoMessage,
        StatusCode::OK => {
            let age = number(&head.headers, &AGE).unwrap_or_default();
            let fresh_for = max_age(&head.headers).map(|max_age| max_age.saturating_sub(age));
            Verdict::Answer { age, fresh_for }
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let pause = number(&head.headers, &RETRY_AFTER).map_or(BUSY_LEAST, |told| Duration::from_secs(told.into()));
            Verdict::Busy { pause: pause.clamp(BUSY_LEAST, BUSY_MOST) }
        }
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Verdict::NoSuchMethod,
        _ => Verdict::OtherStatus,
    }
}

fn is_message(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(MEDIA_TYPE) && !headers.contains_key(CONTENT_ENCODING)
}

/// A number of seconds; one that is too large is as large as can be (RFC 9111 §1.2.2).
fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u32> {
    seconds(headers.get(name)?.to_str().ok()?)
}

fn seconds(text: &str) -> Option<u32> {
    let text = text.trim();
    let is_number = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u32::MAX))
}

/// How long the response is fresh, since it was made. What forbids HTTP caches to keep it (`no-store`) is no word about the
/// answer in it, which has its TTLs.
fn max_age(headers: &HeaderMap) -> Option<u32> {
    let lines = headers.get_all(CACHE_CONTROL).into_iter().filter_map(|line| line.to_str().ok());
    let directives = lines.flat_map(|line| line.split(',')).filter_map(|directive| directive.split_once('='));
    let ages = directives.filter(|(name, _)| name.trim().eq_ignore_ascii_case("max-age"));
    ages.filter_map(|(_, value)| seconds(value.trim().trim_matches('"'))).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Response;

    fn judged(status: u16, headers: &[(&str, &str)]) -> Verdict {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        judge(&response.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn an_answer_is_as_old_and_as_fresh_as_its_headers_say() {
        let with = |headers: &[(&str, &str)]| judged(200, &[&[("content-type", MEDIA_TYPE)], headers].concat());
        for (headers, age, fresh_for) in [
            (&[][..], 0, None),
            (&[("age", "7")], 7, None),
            (&[("cache-control", "max-age=60")], 0, Some(60)),
            (&[("cache-control", "private, Max-Age=\"60\""), ("age", "7")], 7, Some(53)),
            (&[("cache-control", "max-age=60"), ("cache-control", "max-age=30")], 0, Some(30)),
            (&[("cache-control", "max-age=5"), ("age", "7")], 7, Some(0)),
            (&[("cache-control", "no-store"), ("age", "soon")], 0, None),
            (&[("cache-control", "max-age=-1"), ("age", "99999999999")], u32::MAX, None),
        ] {
            assert_eq!(with(headers), Verdict::Answer { age, fresh_for }, "{headers:?}");
        }
    }

    #[test]
    fn only_a_dns_message_is_an_answer() {
        for (headers, verdict) in [
            (
                &[("content-type", "Application/DNS-Message; charset=x")][..],
                Verdict::Answer { age: 0, fresh_for: None },
            ),
            (&[("content-type", "application/dns-json")], Verdict::NoMessage),
            (&[("content-type", "application/dns-messages")], Verdict::NoMessage),
            (&[], Verdict::NoMessage),
            (&[("content-type", MEDIA_TYPE), ("content-encoding", "gzip")], Verdict::NoMessage),
        ] {
            assert_eq!(judged(200, headers), verdict, "{headers:?}");
        }
    }

    #[test]
    fn a_redirect_is_no_answer_whatever_it_carries() {
        for status in [201, 204, 206, 301, 302, 307, 308, 400, 404, 415, 500, 502] {
            assert_eq!(judged(status, &[("content-type", MEDIA_TYPE), ("location", "/")]), Verdict::OtherStatus);
        }
        assert_eq!(judged(405, &[]), Verdict::NoSuchMethod);
        assert_eq!(judged(501, &[]), Verdict::NoSuchMethod);
    }

    #[test]
    fn a_busy_server_is_left_alone_as_long_as_it_says_within_reason() {
        for status in [429, 503] {
            for (headers, seconds) in [
                (&[][..], 1),
                (&[("retry-after", "5")], 5),
                (&[("retry-after", "0")], 1),
                (&[("retry-after", "86400")], 30),
                (&[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")], 1),
            ] {
                assert_eq!(judged(status, headers), Verdict::Busy { pause: Duration::from_secs(seconds) });
            }
        }
    }
}
