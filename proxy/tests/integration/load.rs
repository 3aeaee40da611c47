//! Clients that ask for fresh names at a steady pace over UDP, once each, while something happens to the servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};

use crate::answers::is_right;
use crate::client::{extended_error_in, query};

/// A reply that comes so long after the last query was sent never comes.
const PATIENCE: Duration = Duration::from_secs(12);

/// A connection, a handshake and a pause after a failure take less, even in a debug build.
const SOON: Duration = Duration::from_millis(300);

/// Noise that only a machine makes that is busy with something else.
const DISTURBED: Duration = Duration::from_millis(30);

/// So many clients take turns: replies that come in one burst would overflow the buffer of one.
const CLIENTS: usize = 16;

/// A load that runs beside the test.
pub struct Load {
    running: JoinHandle<Outcomes>,
}

/// What came of each query, in the order in which they were sent.
pub struct Outcomes {
    pub all: Vec<Outcome>,
    /// How late this machine was at what client, proxy and server had to do, at worst.
    noise: Duration,
}

/// What came of one query.
pub struct Outcome {
    pub name: Name,
    pub sent: Instant,
    /// When the reply came, and the reply; none: it was lost.
    pub reply: Option<(Instant, Message)>,
}

/// The name that a load asks for by its n-th query.
pub fn nth_name(index: usize) -> String {
    format!("q{index}.example.com.")
}

impl Load {
    /// Asks for so many names, one each time that `every` has passed.
    pub fn of(proxy: SocketAddr, count: usize, every: Duration) -> Self {
        Self::asking(proxy, count, every, nth_name)
    }

    /// The same for names of the test's own.
    pub fn asking(
        proxy: SocketAddr,
        count: usize,
        every: Duration,
        name: impl Fn(usize) -> String + Send + 'static,
    ) -> Self {
        Self { running: tokio::spawn(run(proxy, count, every, name)) }
    }

    /// Waits for the last reply.
    pub async fn finished(self) -> Outcomes {
        self.running.await.unwrap()
    }
}

async fn run(proxy: SocketAddr, count: usize, every: Duration, name: impl Fn(usize) -> String) -> Outcomes {
    let start = Instant::now();
    let until = start + every * u32::try_from(count).unwrap() + PATIENCE;
    let (mut clients, mut listening) = (Vec::new(), JoinSet::new());
    for turn in 0..CLIENTS {
        let client = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        listening.spawn(listen(Arc::clone(&client), (count + CLIENTS - 1 - turn) / CLIENTS, until));
        clients.push(client);
    }
    let noise = Arc::new(AtomicU64::new(0));
    let measuring = tokio::spawn(measure(Arc::clone(&noise)));
    let mut all = Vec::with_capacity(count);
    for index in 0..count {
        tokio::time::sleep_until(start + every * u32::try_from(index).unwrap()).await;
        let (name, id) = (name(index), u16::try_from(index).unwrap());
        all.push(Outcome { name: Name::from_ascii(&name).unwrap(), sent: Instant::now(), reply: None });
        clients[index % CLIENTS].send_to(&query(id, &name, RecordType::A), proxy).await.unwrap();
    }
    for (at, reply) in listening.join_all().await.into_iter().flatten() {
        let outcome = &mut all[usize::from(reply.metadata.id)];
        assert!(outcome.reply.is_none(), "two replies to one query for {}", outcome.name);
        assert_eq!(reply.queries[0].name(), &outcome.name, "the reply to another query");
        outcome.reply = Some((at, reply));
    }
    measuring.abort();
    Outcomes { all, noise: 3 * Duration::from_micros(noise.load(Ordering::Relaxed)) }
}

/// Takes the replies to so many queries.
async fn listen(client: Arc<UdpSocket>, count: usize, until: Instant) -> Vec<(Instant, Message)> {
    let (mut replies, mut buffer) = (Vec::new(), vec![0; 65_535]);
    while replies.len() < count
        && let Ok(received) = timeout_at(until, client.recv_from(&mut buffer)).await
    {
        let (length, _) = received.unwrap();
        replies.push((Instant::now(), Message::from_vec(&buffer[..length]).unwrap()));
    }
    replies
}

/// Keeps how much too late a sleep ended at worst: on a busy machine, clients, proxy and servers are late as well.
async fn measure(noise: Arc<AtomicU64>) {
    const STEP: Duration = Duration::from_millis(2);
    loop {
        let due = Instant::now() + STEP;
        tokio::time::sleep_until(due).await;
        let late = u64::try_from(due.elapsed().as_micros()).unwrap();
        noise.fetch_max(late, Ordering::Relaxed);
    }
}

impl Outcome {
    /// Whether the right answer came.
    pub fn is_right(&self) -> bool {
        self.reply.as_ref().is_some_and(|(_, reply)| is_right(reply, &self.name))
    }

    /// Whether SERVFAIL came: an answer that is missing, and not a wrong one.
    pub fn has_failed(&self) -> bool {
        self.reply.as_ref().is_some_and(|(_, reply)| reply.metadata.response_code == ResponseCode::ServFail)
    }

    /// How long the reply took.
    pub fn latency(&self) -> Duration {
        self.reply.as_ref().map_or(PATIENCE, |(at, _)| *at - self.sent)
    }

    fn told(&self) -> String {
        let Some((_, reply)) = &self.reply else { return format!("{} lost", self.name) };
        let (code, cause) = (reply.metadata.response_code, extended_error_in(reply));
        format!("{} {code} {:?} {cause:?} after {:?}", self.name, reply.answers, self.latency())
    }
}

impl Outcomes {
    /// Every query got the right answer.
    pub fn assert_all_right(&self) {
        self.assert_each("did not get the right answer", Outcome::is_right);
    }

    /// Every query got a reply, and none another's data: at worst SERVFAIL.
    pub fn assert_none_lost_or_wrong(&self) {
        self.assert_each("was lost or got wrong data", |outcome| outcome.is_right() || outcome.has_failed());
    }

    /// Every query that was sent after the first right answer that came after this time got the right answer.
    pub fn assert_recovered_at_the_first_success_after(&self, time: Instant) {
        let success = self.first_success_after(time);
        self.assert_each("failed after the first success", |outcome| outcome.sent <= success || outcome.is_right());
    }

    /// The first right answer after the servers' return came soon, but for what the machine itself was late.
    pub fn assert_success_soon_after(&self, back: Instant) {
        let after = self.first_success_after(back) - back;
        let noise = self.noise;
        assert!(
            after < SOON + noise,
            "the first success came {after:?} after the servers (the machine was {noise:?} late)"
        );
    }

    /// When the first right answer came to a query sent after this time.
    fn first_success_after(&self, time: Instant) -> Instant {
        let right = |outcome: &Outcome| outcome.reply.as_ref().filter(|_| outcome.is_right()).map(|(at, _)| *at);
        self.all.iter().filter(|outcome| outcome.sent >= time).filter_map(right).min().expect("no query succeeded")
    }

    /// No reply was later than this, but for what the machine itself was late.
    pub fn assert_none_later_than(&self, bound: Duration) {
        assert!(!self.all.is_empty());
        self.assert_each(&format!("came later than {bound:?}"), |outcome| outcome.latency() <= bound + self.noise);
    }

    /// Whether it was the machine that was late, so that lateness in this run says little of the proxy: it learns from answers
    /// that come late without their server's fault, and asks others beside until no more is allowed.
    pub fn were_disturbed(&self) -> bool {
        self.noise > DISTURBED
    }

    /// How many were later than this, but for what the machine itself was late.
    pub fn later_than(&self, bound: Duration) -> usize {
        self.all.iter().filter(|outcome| outcome.latency() > bound + self.noise).count()
    }

    /// So many upstream queries were few enough: so many times the clients'. Where the machine was late, so were answers,
    /// and others were rightly asked beside.
    pub fn assert_few_upstream_queries(&self, asked: u64, times: f64) {
        let times = if self.were_disturbed() { times + 0.2 } else { times };
        let count = u32::try_from(self.all.len()).unwrap();
        let most = f64::from(count) * times;
        let asked = f64::from(u32::try_from(asked).unwrap());
        assert!(asked <= most, "{asked} upstream queries for {count} (the machine was {:?} late)", self.noise);
    }

    fn assert_each(&self, problem: &str, holds: impl Fn(&Outcome) -> bool) {
        let bad: Vec<_> = self.all.iter().filter(|outcome| !holds(outcome)).collect();
        let told: Vec<_> = bad.iter().take(5).map(|outcome| outcome.told()).collect();
        let (count, of, noise) = (bad.len(), self.all.len(), self.noise);
        assert!(bad.is_empty(), "{count} of {of} {problem} (the machine was {noise:?} late): {told:#?}");
    }
}
