//! Reads what `kdig -E` writes: the messages it sent and received, octet for octet, as dnstap (dnstap.info) in a file of
//! Frame Streams.
//!
//! Of kdig's forms of output it is the one that loses nothing: text and JSON leave out, or rewrite, parts of the header,
//! the options of EDNS, and how names are compressed and spelt.

/// The messages of one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exchange<'a> {
    /// As it was sent.
    pub(super) query: &'a [u8],
    /// As it came.
    pub(super) response: &'a [u8],
}

/// Not what kdig writes of one query and its one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Control frames of Frame Streams that matter here.
const START: u32 = 2;
const STOP: u32 = 3;

/// Fields and values of `dnstap.proto`.
mod field {
    pub(super) const DNSTAP_MESSAGE: u64 = 14;
    pub(super) const MESSAGE_TYPE: u64 = 1;
    pub(super) const QUERY: u64 = 10;
    pub(super) const RESPONSE: u64 = 14;
    pub(super) const TOOL_QUERY: u64 = 11;
    pub(super) const TOOL_RESPONSE: u64 = 12;
}

/// Reads a whole file, which must hold one query and one response, from its start to its end.
pub(super) fn read(mut file: &[u8]) -> Result<Exchange<'_>, Unreadable> {
    let (mut query, mut response) = (None, None);
    if control(&mut file)? != START {
        return Err(Unreadable);
    }
    loop {
        match number(&mut file)? {
            0 => break,
            length => {
                let (kind, octets) = message(take(&mut file, length.into())?)?;
                let place = if kind == field::TOOL_QUERY { &mut query } else { &mut response };
                if place.replace(octets).is_some() {
                    return Err(Unreadable);
                }
            }
        }
    }
    let stop = number(&mut file)?;
    let mut stop = take(&mut file, stop.into())?;
    match (query, response) {
        (Some(query), Some(response)) if number(&mut stop)? == STOP && file.is_empty() => {
            Ok(Exchange { query, response })
        }
        _ => Err(Unreadable),
    }
}

/// A control frame: an escape of 0, its length, its type, and fields.
fn control(rest: &mut &[u8]) -> Result<u32, Unreadable> {
    if number(rest)? != 0 {
        return Err(Unreadable);
    }
    let length = number(rest)?;
    number(&mut take(rest, length.into())?)
}

/// The type and the octets of the message within a `Dnstap`.
fn message(dnstap: &[u8]) -> Result<(u64, &[u8]), Unreadable> {
    let (mut kind, mut query, mut response) = (None, None, None);
    for found in fields(only(dnstap, field::DNSTAP_MESSAGE)?) {
        match found? {
            (field::MESSAGE_TYPE, Value::Number(number)) => kind = Some(number),
            (field::QUERY, Value::Octets(octets)) => query = Some(octets),
            (field::RESPONSE, Value::Octets(octets)) => response = Some(octets),
            _ => {}
        }
    }
    match (kind, query, response) {
        (Some(field::TOOL_QUERY), Some(octets), None) => Ok((field::TOOL_QUERY, octets)),
        (Some(field::TOOL_RESPONSE), _, Some(octets)) => Ok((field::TOOL_RESPONSE, octets)),
        _ => Err(Unreadable),
    }
}

/// The one field of this number, which holds octets.
fn only(message: &[u8], wanted: u64) -> Result<&[u8], Unreadable> {
    let mut only = None;
    for found in fields(message) {
        if let (number, Value::Octets(octets)) = found?
            && number == wanted
            && only.replace(octets).is_some()
        {
            return Err(Unreadable);
        }
    }
    only.ok_or(Unreadable)
}

enum Value<'a> {
    Number(u64),
    Octets(&'a [u8]),
    Other,
}

/// The fields of a message in protocol buffers, until the first that is cut.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = Result<(u64, Value<'_>), Unreadable>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let read = field(&mut rest);
        if read.is_err() {
            rest = &[];
        }
        Some(read)
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Value<'a>), Unreadable> {
    let tag = varint(rest)?;
    let value = match tag & 7 {
        0 => Value::Number(varint(rest)?),
        1 => take(rest, 8).map(|_| Value::Other)?,
        2 => {
            let length = varint(rest)?;
            Value::Octets(take(rest, length)?)
        }
        5 => take(rest, 4).map(|_| Value::Other)?,
        _ => return Err(Unreadable),
    };
    Ok((tag >> 3, value))
}

fn varint(rest: &mut &[u8]) -> Result<u64, Unreadable> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let [octet] = *take(rest, 1)? else { return Err(Unreadable) };
        number |= u64::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Unreadable)
}

/// A number as Frame Streams has them, in network order.
fn number(rest: &mut &[u8]) -> Result<u32, Unreadable> {
    let octets = take(rest, 4)?;
    octets.try_into().map(u32::from_be_bytes).map_err(|_| Unreadable)
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], Unreadable> {
    let length = usize::try_from(length).map_err(|_| Unreadable)?;
    let (taken, behind) = rest.split_at_checked(length).ok_or(Unreadable)?;
    *rest = behind;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put_varint(out: &mut Vec<u8>, mut number: u64) {
        while number >= 0x80 {
            out.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
            number >>= 7;
        }
        out.push(u8::try_from(number).unwrap());
    }

    fn put_octets(out: &mut Vec<u8>, field: u64, octets: &[u8]) {
        put_varint(out, field << 3 | 2);
        put_varint(out, octets.len() as u64);
        out.extend_from_slice(octets);
    }

    fn put_framed(out: &mut Vec<u8>, frame: &[u8]) {
        out.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
        out.extend_from_slice(frame);
    }

    /// A frame as kdig writes it: who wrote it, then the message with its type, addresses, times and octets.
    fn frame(kind: u64, field: u64, octets: &[u8]) -> Vec<u8> {
        let mut message = vec![0x08, u8::try_from(kind).unwrap(), 0x10, 1];
        put_octets(&mut message, 4, &[127, 0, 0, 1]);
        message.extend([0x4d, 1, 2, 3, 4]); // a time: four octets
        put_octets(&mut message, field, octets);
        let mut dnstap = Vec::new();
        put_octets(&mut dnstap, 2, b"kdig 3.2.6");
        put_octets(&mut dnstap, field::DNSTAP_MESSAGE, &message);
        dnstap.extend([0x78, 1]);
        dnstap
    }

    fn file(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut file = vec![0; 4];
        put_framed(&mut file, &[&[0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 22], &b"protobuf:dnstap.Dnstap"[..]].concat());
        frames.iter().for_each(|frame| put_framed(&mut file, frame));
        file.extend([0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 3]);
        file
    }

    fn query(octets: &[u8]) -> Vec<u8> {
        frame(field::TOOL_QUERY, field::QUERY, octets)
    }

    fn response(octets: &[u8]) -> Vec<u8> {
        frame(field::TOOL_RESPONSE, field::RESPONSE, octets)
    }

    #[test]
    fn anything_but_one_query_and_one_response_is_refused() {
        for frames in [
            vec![],
            vec![query(b"q")],
            vec![response(b"r")],
            vec![query(b"q"), response(b"r"), response(b"r")],
            vec![query(b"q"), query(b"q"), response(b"r")],
            vec![query(b"q"), frame(field::TOOL_RESPONSE, field::QUERY, b"r")],
            vec![query(b"q"), frame(5, field::RESPONSE, b"r")],
        ] {
            assert_eq!(read(&file(&frames)), Err(Unreadable), "{frames:?}");
        }
    }

    #[test]
    fn a_file_that_goes_on_behind_its_end_is_refused() {
        let mut file = file(&[query(b"q"), response(b"r")]);
        assert!(read(&file).is_ok());
        file.push(0);
        assert_eq!(read(&file), Err(Unreadable));
    }

    proptest! {
        #[test]
        fn messages_of_any_octets_are_read_as_they_were_written(
            sent in prop::collection::vec(any::<u8>(), 0..400), came in prop::collection::vec(any::<u8>(), 0..66_000)
        ) {
            let file = file(&[query(&sent), response(&came)]);
            prop_assert_eq!(read(&file), Ok(Exchange { query: &sent, response: &came }));
        }

        #[test]
        fn a_file_that_is_cut_anywhere_is_refused(
            sent in prop::collection::vec(any::<u8>(), 0..60), came in prop::collection::vec(any::<u8>(), 0..60), at: prop::sample::Index
        ) {
            let file = file(&[query(&sent), response(&came)]);
            prop_assert_eq!(read(&file[..at.index(file.len())]), Err(Unreadable));
        }

        #[test]
        fn nothing_that_is_read_makes_it_panic(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&octets);
        }
    }
}
