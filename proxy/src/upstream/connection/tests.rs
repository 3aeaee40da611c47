use super::*;
use crate::wire::name::from_text;
use crate::wire::{HEADER, flag};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const ASKED: Asked = Asked { id: 1, flags: flag::RD, edns: None };
const IDLE: Duration = Duration::from_secs(10);

fn question(name: &str) -> Vec<u8> {
    [from_text(name), vec![0, 1, 0, 1]].concat()
}

fn query(bytes: &[u8]) -> Query<'_> {
    Query { asked: ASKED, question: Question::starting(bytes).unwrap(), until: Instant::now() + Duration::from_secs(4) }
}

/// Asks in a task of its own.
fn ask(connection: &Connection, name: &str) -> tokio::task::JoinHandle<Result<Vec<u8>, Cause>> {
    let (connection, bytes) = (connection.clone(), question(name));
    tokio::spawn(async move {
        let answered = connection.ask(query(&bytes)).await?.expect("the connection is open");
        answered.message().await.map(|(message, _)| message)
    })
}

async fn read_query(server: &mut DuplexStream) -> Vec<u8> {
    let length = server.read_u16().await.unwrap();
    let mut message = vec![0; length.into()];
    server.read_exact(&mut message).await.unwrap();
    message
}

async fn send(server: &mut DuplexStream, message: &[u8]) {
    server.write_u16(u16::try_from(message.len()).unwrap()).await.unwrap();
    server.write_all(message).await.unwrap();
}

fn response_to(query: &[u8]) -> Vec<u8> {
    let question = Question::starting(&query[HEADER..]).unwrap();
    let mut message = vec![query[0], query[1], 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(question.as_bytes());
    message
}

fn open_over(capacity: usize) -> (Connection, DuplexStream, Arc<Health>) {
    let (client, server) = tokio::io::duplex(capacity);
    let health = Arc::new(Health::default());
    let (connection, driver) = Connection::open(client, Privacy::Encrypted, Arc::clone(&health), IDLE);
    tokio::spawn(driver);
    (connection, server, health)
}

fn open() -> (Connection, DuplexStream, Arc<Health>) {
    open_over(65_536)
}

/// One who takes note of what it is told.
#[derive(Default)]
struct Noting(Mutex<Vec<&'static str>>);

impl Noting {
    fn noted(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

impl Asker for Noting {
    fn answered(self: Arc<Self>, _: Attempt, _: &[u8], _: Instant, _: &mut Outbox) {
        self.0.lock().unwrap().push("answered");
    }

    fn late(self: Arc<Self>, _: Attempt) {
        self.0.lock().unwrap().push("late");
    }

    fn failed(self: Arc<Self>, _: Attempt, _: Cause) {
        self.0.lock().unwrap().push("failed");
    }
}

fn put_in(connection: &Connection, name: &str, asker: &Arc<Noting>) -> Result<(), NotTaken> {
    let bytes = question(name);
    let asker: Arc<dyn Asker> = Arc::<Noting>::clone(asker);
    connection.enqueue(query(&bytes), Attempt { server: 0, sent: Instant::now() }, asker)
}

#[tokio::test]
async fn answers_find_their_questions_in_whatever_order_they_come() {
    let (connection, mut server, _) = open();
    let (first, second) = (ask(&connection, "a.example"), ask(&connection, "b.example"));
    let queries = [read_query(&mut server).await, read_query(&mut server).await];
    for query in queries.iter().rev() {
        send(&mut server, &response_to(query)).await;
    }
    let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_eq!(first[HEADER..], question("a.example"));
    assert_eq!(second[HEADER..], question("b.example"));
}

#[tokio::test]
async fn a_message_with_another_id_or_question_is_not_taken_for_the_answer() {
    let (connection, mut server, _) = open();
    let asked = ask(&connection, "a.example");
    let query = read_query(&mut server).await;
    let mut wrong_id = response_to(&query);
    wrong_id[0] ^= 0xff;
    let mut wrong_question = response_to(&query);
    wrong_question[HEADER + 1] = b'x';
    for message in [&wrong_id, &wrong_question, &query, &vec![0; 3], &response_to(&query)] {
        send(&mut server, message).await;
    }
    assert_eq!(asked.await.unwrap().unwrap(), response_to(&query));
}

#[tokio::test]
async fn an_answer_that_comes_in_single_octets_is_put_together() {
    let (connection, mut server, _) = open();
    let asked = ask(&connection, "a.example");
    let response = response_to(&read_query(&mut server).await);
    let length = u16::try_from(response.len()).unwrap().to_be_bytes();
    for byte in length.iter().chain(&response) {
        server.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(asked.await.unwrap().unwrap(), response);
}

#[tokio::test]
async fn when_the_connection_ends_everybody_who_waits_is_told() {
    let (connection, mut server, _) = open();
    let asked = [ask(&connection, "a.example"), ask(&connection, "b.example")];
    read_query(&mut server).await;
    drop(server);
    for one in asked {
        assert_eq!(one.await.unwrap(), Err(Cause::ConnectionClosed));
    }
    let bytes = question("c.example");
    assert!(connection.ask(query(&bytes)).await.unwrap().is_none());
    assert!(connection.is_closed());
}

#[tokio::test]
async fn queries_put_in_together_go_out_in_one_write() {
    let (connection, mut server, _) = open();
    let asker = Arc::default();
    for name in ["a.example", "b.example", "c.example"] {
        put_in(&connection, name, &asker).unwrap();
    }
    connection.flush();
    let mut bytes = vec![0; 1024];
    assert_eq!(server.read(&mut bytes).await.unwrap(), 3 * (2 + 128));
}

#[tokio::test]
async fn what_the_network_does_not_take_at_once_is_written_later() {
    let (connection, mut server, _) = open_over(256);
    let asked: Vec<_> = (0..50).map(|index| ask(&connection, &format!("n{index}.example"))).collect();
    for _ in 0..50 {
        let response = response_to(&read_query(&mut server).await);
        send(&mut server, &response).await;
    }
    for one in asked {
        assert!(one.await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn a_connection_takes_no_more_queries_than_it_is_meant_to() {
    let (connection, _server, _) = open();
    let asker = Arc::default();
    for index in 0..MAX_IN_FLIGHT {
        put_in(&connection, &format!("n{index}.example"), &asker).unwrap();
    }
    assert_eq!(put_in(&connection, "one.more.example", &asker), Err(NotTaken::Full));
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_once_that_the_answer_is_late_and_still_gets_it() {
    let (connection, mut server, health) = open();
    let asker = Arc::<Noting>::default();
    put_in(&connection, "a.example", &asker).unwrap();
    connection.flush();
    let query = read_query(&mut server).await;
    tokio::time::sleep(health.late_after() - Duration::from_millis(1)).await;
    assert_eq!(asker.noted(), Vec::<&str>::new());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(asker.noted(), ["late"]);
    assert_eq!(health.standing(Instant::now()), crate::upstream::health::Standing::Silent);
    send(&mut server, &response_to(&query)).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(asker.noted(), ["late", "answered"]);
    assert_eq!(health.standing(Instant::now()), crate::upstream::health::Standing::Good);
}

#[tokio::test(start_paused = true)]
async fn who_asks_after_others_were_told_is_told_as_early_as_they_were() {
    let (connection, _server, health) = open();
    let (first, second) = (Arc::<Noting>::default(), Arc::<Noting>::default());
    put_in(&connection, "a.example", &first).unwrap();
    tokio::time::sleep(2 * health.late_after()).await;
    assert_eq!(first.noted(), ["late"]);
    put_in(&connection, "b.example", &second).unwrap();
    tokio::time::sleep(2 * health.late_after()).await;
    assert_eq!(second.noted(), ["late"]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_even_where_the_machine_slept_until_the_time_was_over() {
    let (connection, _server, _) = open();
    let asker = Arc::<Noting>::default();
    put_in(&connection, "a.example", &asker).unwrap();
    tokio::task::yield_now().await;
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(asker.noted(), ["late"]);
}

#[tokio::test(start_paused = true)]
async fn a_question_whose_time_is_over_is_forgotten() {
    let (connection, _server, _) = open();
    let asker = Arc::<Noting>::default();
    put_in(&connection, "a.example", &asker).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(connection.shared.lock().in_flight.len(), 0);
    assert_eq!(Arc::strong_count(&asker), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_and_one_in_use_is_not() {
    let (connection, mut server, _) = open();
    for _ in 0..3 {
        tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
        let asked = ask(&connection, "a.example");
        let response = response_to(&read_query(&mut server).await);
        send(&mut server, &response).await;
        asked.await.unwrap().unwrap();
    }
    assert!(!connection.is_closed());
    tokio::time::sleep(IDLE + Duration::from_secs(1)).await;
    assert!(connection.is_closed());
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_wakes_nobody() {
    let (connection, _server, _) = open();
    tokio::time::sleep(IDLE * 2).await;
    assert!(connection.is_closed());
    assert!(connection.shared.lock().stream.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_finishes_takes_no_query_and_ends_when_the_last_answer_has_come() {
    let (connection, mut server, _) = open();
    let asking = [ask(&connection, "a.example"), ask(&connection, "b.example")];
    let queries = [read_query(&mut server).await, read_query(&mut server).await];
    connection.finish();
    assert!(connection.is_closed());
    assert_eq!(put_in(&connection, "c.example", &Arc::default()), Err(NotTaken::Closed));
    for query in &queries {
        send(&mut server, &response_to(query)).await;
    }
    for asked in asking {
        assert!(asked.await.unwrap().is_ok());
    }
    assert!(server.read_u8().await.is_err(), "nothing more is sent, and the end comes");
    // Where nothing is in flight it ends at once, and where the server never answers when nobody waits any more.
    for in_flight in [0, 1] {
        let (connection, mut server, _) = open();
        let asking: Vec<_> = (0..in_flight).map(|_| ask(&connection, "a.example")).collect();
        tokio::task::yield_now().await;
        connection.finish();
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest.is_empty(), asking.is_empty());
    }
}
