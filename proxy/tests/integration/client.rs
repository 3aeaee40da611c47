//! A client that asks as libc does.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::conversation::frame;

/// A reply that takes longer never comes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The query for a name, with EDNS.
pub fn query(id: u16, name: &str, record_type: RecordType) -> Vec<u8> {
    message(id, name, record_type).to_vec().unwrap()
}

/// The same, to be changed.
pub fn message(id: u16, name: &str, record_type: RecordType) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message.edns = Some(Edns::new());
    message
}

/// Asks for an address over UDP.
pub async fn ask(proxy: SocketAddr, name: &str) -> Message {
    ask_type(proxy, name, RecordType::A).await
}

/// Asks over UDP.
pub async fn ask_type(proxy: SocketAddr, name: &str, record_type: RecordType) -> Message {
    ask_this(proxy, &message(7, name, record_type)).await
}

/// Asks a query of the test's own over UDP.
pub async fn ask_this(proxy: SocketAddr, query: &Message) -> Message {
    let reply = Message::from_vec(&exchange(proxy, &[&query.to_vec().unwrap()]).await).unwrap();
    assert_eq!(reply.metadata.id, query.metadata.id);
    reply
}

/// Sends datagrams and gives the first that comes back.
pub async fn exchange(proxy: SocketAddr, datagrams: &[&[u8]]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for datagram in datagrams {
        socket.send_to(datagram, proxy).await.unwrap();
    }
    receive_datagram(&socket).await
}

/// The next datagram that comes.
pub async fn receive_datagram(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let (length, _) = tokio::time::timeout(PATIENCE, socket.recv_from(&mut buffer)).await.expect("no reply").unwrap();
    buffer.truncate(length);
    buffer
}

/// Asks over TCP, on a connection of its own.
pub async fn ask_over_tcp(proxy: SocketAddr, query: &Message) -> Message {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    send(&mut stream, &query.to_vec().unwrap()).await;
    receive(&mut stream).await.unwrap()
}

/// Writes a message on a TCP connection.
pub async fn send(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(&frame(message)).await.unwrap();
}

/// Writes messages on a TCP connection in one go.
pub async fn send_all(stream: &mut TcpStream, messages: &[Vec<u8>]) {
    let framed: Vec<_> = messages.iter().flat_map(|message| frame(message)).collect();
    stream.write_all(&framed).await.unwrap();
}

/// Reads a message from a TCP connection; none when the other side has closed it.
pub async fn receive(stream: &mut TcpStream) -> Option<Message> {
    let reading = async {
        let length = stream.read_u16().await.ok()?;
        let mut message = vec![0; length.into()];
        stream.read_exact(&mut message).await.ok()?;
        Some(Message::from_vec(&message).unwrap_or_else(|error| panic!("{error}: {message:?}")))
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("neither a reply nor an end of the connection came")
}

/// The code and the text of the extended DNS error in a reply (RFC 8914), if it has one.
pub fn extended_error_in(reply: &Message) -> Option<(u16, String)> {
    match reply.edns.as_ref()?.option(EdnsCode::Unknown(15))? {
        EdnsOption::Unknown(_, data) => {
            Some((u16::from_be_bytes([data[0], data[1]]), String::from_utf8(data[2..].to_vec()).unwrap()))
        }
        other => panic!("no extended error: {other:?}"),
    }
}

/// The text of the extended DNS error in a reply.
pub fn extended_error(reply: &Message) -> String {
    extended_error_in(reply).unwrap_or_else(|| panic!("no extended error in {reply}")).1
}
