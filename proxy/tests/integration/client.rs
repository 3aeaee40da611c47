//! A client that asks as libc does.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// A reply that takes longer never comes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The query for a name, with EDNS.
pub fn query(id: u16, name: &str, record_type: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message.edns = Some(Edns::new());
    message.to_vec().unwrap()
}

/// Asks for an address over UDP.
pub async fn ask(proxy: SocketAddr, name: &str) -> Message {
    ask_type(proxy, name, RecordType::A).await
}

/// Asks over UDP.
pub async fn ask_type(proxy: SocketAddr, name: &str, record_type: RecordType) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query(7, name, record_type), proxy).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let (length, _) = tokio::time::timeout(PATIENCE, socket.recv_from(&mut buffer)).await.expect("no reply").unwrap();
    let reply = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(reply.metadata.id, 7);
    reply
}

/// Writes a message on a TCP connection.
pub async fn send(stream: &mut TcpStream, message: &[u8]) {
    let framed = [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat();
    stream.write_all(&framed).await.unwrap();
}

/// Reads a message from a TCP connection; none when the other side has closed it.
pub async fn receive(stream: &mut TcpStream) -> Option<Message> {
    let reading = async {
        let length = stream.read_u16().await.ok()?;
        let mut message = vec![0; length.into()];
        stream.read_exact(&mut message).await.ok()?;
        Some(Message::from_vec(&message).unwrap())
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("neither a reply nor an end of the connection came")
}

/// The text of the extended DNS error in a reply.
pub fn extended_error(reply: &Message) -> String {
    match reply.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Unknown(15))) {
        Some(EdnsOption::Unknown(_, data)) => String::from_utf8(data[2..].to_vec()).unwrap(),
        other => panic!("no extended error: {other:?}"),
    }
}
