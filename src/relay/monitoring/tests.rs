//! The replies of the service: their fields, when they come, and how they are chained.

use std::task::Waker;

use bson::oid::ObjectId;
use bson::{Document, doc};

use super::*;
use crate::wire::header::{HEADER_BYTES, OpCode};

const STREAM: u32 = flag::EXHAUST_ALLOWED;

/// The hello of a primary of mongod 6.0, with some of its fields, in its order.
fn primary(process: u8, counter: i64) -> Document {
    doc! {
        "topologyVersion": topology_version(process, counter),
        "hosts": ["a:1"],
        "isWritablePrimary": true,
        "lastWrite": { "lastWriteDate": bson::DateTime::from_millis(900) },
        "localTime": bson::DateTime::from_millis(1_000),
        "connectionId": 7,
        "maxWireVersion": 17,
        "ok": 1.0,
        "$clusterTime": { "clusterTime": 1 },
        "operationTime": 1,
    }
}

fn topology_version(process: u8, counter: i64) -> Document {
    doc! { "processId": ObjectId::from_bytes([process; 12]), "counter": counter }
}

fn awaits(process: u8, counter: i64, at_most: i64) -> Document {
    doc! { "hello": 1, "topologyVersion": topology_version(process, counter), "maxAwaitTimeMS": at_most }
}

/// A member, one client of it, and the time.
struct Scene {
    feed: Arc<Feed<KnownHello>>,
    service: HelloService,
    start: Instant,
    now: Instant,
}

impl Scene {
    /// The member has said `hello`.
    fn new(hello: &Document) -> Self {
        let feed = Arc::new(Feed::default());
        let now = Instant::now();
        let scene = Self { service: HelloService::new(Arc::clone(&feed)), feed, start: now, now };
        scene.says(hello);
        scene
    }

    fn says(&self, hello: &Document) {
        let hello = RawDocumentBuf::try_from(hello).unwrap();
        self.feed.publish(KnownHello::new(hello, self.now.into_std()), KnownHello::differs_from);
    }

    fn later(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
    }

    fn asks_with(&mut self, flags: u32, mut command: Document) -> Heard {
        command.insert("$db", "admin");
        let command = RawDocumentBuf::try_from(&command).unwrap();
        self.service.take(&op_msg::encode_with(flags, 50, 0, &command), self.now)
    }

    fn asks(&mut self, command: Document) -> Heard {
        self.asks_with(0, command)
    }

    fn poll(&mut self) -> Poll<Event> {
        self.service.poll(self.now, &mut Context::from_waker(Waker::noop()))
    }

    /// What comes next; it must have come.
    fn reply(&mut self) -> Reply {
        match self.poll() {
            Poll::Ready(Event::Reply(message)) => Reply::read(&message),
            other => panic!("no reply: {other:?}"),
        }
    }

    /// In milliseconds after the start.
    fn next_due(&self) -> Option<u128> {
        self.service.next_due().map(|due| due.duration_since(self.start).as_millis())
    }
}

#[derive(Debug)]
struct Reply {
    header: Header,
    more_to_come: bool,
    document: Document,
}

impl Reply {
    fn read(message: &[u8]) -> Self {
        let header = Header::parse(*message.first_chunk().unwrap()).unwrap();
        assert_eq!(header.length as usize, message.len());
        let (flags, prefix) = (message[HEADER_BYTES], if header.op_code == OpCode::REPLY { 20 } else { 5 });
        let document = RawDocumentBuf::from_bytes(message[HEADER_BYTES + prefix..].to_vec()).unwrap();
        let document = Document::try_from(document.as_ref()).unwrap();
        Self { header, more_to_come: header.op_code == OpCode::MSG && flags == 2, document }
    }

    fn of(heard: Heard) -> Self {
        match heard {
            Heard::Reply(message) => Self::read(&message),
            other => panic!("no reply: {other:?}"),
        }
    }

    fn counter(&self) -> i64 {
        self.document.get_document("topologyVersion").unwrap().get_i64("counter").unwrap()
    }

    /// Own ID, what it responds to, whether more replies follow.
    fn chain(&self) -> (i32, i32, bool) {
        (self.header.request_id, self.header.response_to, self.more_to_come)
    }
}

#[test]
fn the_reply_is_that_of_the_member_with_the_time_of_now() {
    let mut scene = Scene::new(&primary(1, 6));
    scene.later(250);
    let mut expected = primary(1, 6);
    expected.insert("localTime", bson::DateTime::from_millis(1_250));
    let reply = Reply::of(scene.asks(doc! { "hello": 1 }));
    assert_eq!((reply.document, reply.header.op_code), (expected.clone(), OpCode::MSG));
    assert_eq!((reply.header.response_to, reply.more_to_come), (50, false));

    let legacy: Document = expected
        .iter()
        .map(|(name, value)| (if name == "isWritablePrimary" { "ismaster" } else { name }.to_owned(), value.clone()))
        .collect();
    for name in ["ismaster", "isMaster"] {
        assert_eq!(Reply::of(scene.asks(doc! { name: 1 })).document, legacy);
    }
    for (name, of_name) in [("hello", expected), ("isMaster", legacy)] {
        let mut with_ok = doc! { "helloOk": true };
        with_ok.extend(of_name);
        assert_eq!(Reply::of(scene.asks(doc! { name: 1, "helloOk": true })).document, with_ok, "first, as in mongod");
    }
}

#[test]
fn an_op_query_is_answered_with_an_op_reply() {
    let mut scene = Scene::new(&primary(1, 6));
    let command = bson::serialize_to_vec(&doc! { "ismaster": 1 }).unwrap();
    let body = [&[0; 4][..], b"admin.$cmd\0", &[0; 4], &(-1_i32).to_le_bytes(), &command].concat();
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
    let header = Header { length, request_id: 50, response_to: 0, op_code: OpCode::QUERY };
    let heard = scene.service.take(&[&header.to_bytes(), body.as_slice()].concat(), scene.now);
    let reply = Reply::of(heard);
    assert_eq!((reply.header.op_code, reply.header.response_to), (OpCode::REPLY, 50));
    assert!(reply.document.get_bool("ismaster").unwrap());
}

#[test]
fn nothing_is_answered_without_a_current_hello_of_the_member() {
    let mut scene = Scene::new(&primary(1, 6));
    scene.feed.lose();
    assert_eq!(scene.asks(doc! { "hello": 1 }), Heard::NotMine);
    assert_eq!(scene.asks(awaits(1, 6, 10_000)), Heard::NotMine);
    scene.says(&primary(1, 6));
    assert!(matches!(scene.asks(doc! { "hello": 1 }), Heard::Reply(_)));
    let mut silent = HelloService::new(Arc::default());
    let hello = RawDocumentBuf::try_from(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    assert_eq!(silent.take(&op_msg::encode(1, 0, &hello), scene.now), Heard::NotMine);
    // Anything but a hello.
    assert_eq!(scene.asks(doc! { "ping": 1 }), Heard::NotMine);
    assert!(!scene.service.is_waiting() && scene.next_due().is_none() && scene.poll().is_pending());
    assert_eq!(scene.service.finish(scene.now), None);
}

#[test]
fn what_an_old_server_does_not_know_goes_to_it() {
    let old = doc! { "ismaster": true, "localTime": bson::DateTime::from_millis(1), "maxWireVersion": 8, "ok": 1.0 };
    let mut scene = Scene::new(&old);
    assert_eq!(scene.asks(doc! { "hello": 1 }), Heard::NotMine);
    assert_eq!(Reply::of(scene.asks(doc! { "isMaster": 1, "helloOk": true })).document, old);
    let mut awaitable = doc! { "isMaster": 1 };
    awaitable.extend(awaits(1, 6, 100).into_iter().skip(1));
    assert_eq!(scene.asks(awaitable), Heard::NotMine, "it would reply at once");
}

#[test]
fn the_metadata_of_a_client_is_accepted_once() {
    let mut scene = Scene::new(&primary(1, 6));
    let client = doc! { "driver": { "name": "x", "version": "1" }, "os": { "type": "Linux" } };
    let introduces = doc! { "hello": 1, "client": client };
    assert!(matches!(scene.asks(doc! { "hello": 1 }), Heard::Reply(_)));
    assert!(matches!(scene.asks(introduces.clone()), Heard::Reply(_)));
    assert_eq!(scene.asks(introduces), Heard::NotMine, "mongod replies with ClientMetadataCannotBeMutated");
    assert!(matches!(scene.asks(doc! { "hello": 1 }), Heard::Reply(_)));
}

#[test]
fn a_client_that_knows_another_state_is_answered_at_once_and_others_wait() {
    for (process, counter, at_most, waits) in [
        (1, 6, 10_000, true),
        (1, 5, 10_000, false),
        (2, 6, 10_000, false),
        (2, 9, 10_000, false),
        // It heard of the change before the gateway's monitor.
        (1, 7, 10_000, true),
        (1, i64::MAX, 10_000, true),
        (1, 6, 0, false),
    ] {
        let mut scene = Scene::new(&primary(1, 6));
        let heard = scene.asks(awaits(process, counter, at_most));
        assert_eq!(heard == Heard::Later, waits, "{process} {counter} {at_most}");
        assert_eq!(scene.service.is_waiting(), waits);
        if !waits {
            assert_eq!(Reply::of(heard).counter(), 6);
        }
    }
}

#[test]
fn a_waiting_client_is_answered_at_a_change_or_when_its_time_is_over() {
    let mut scene = Scene::new(&primary(1, 6));
    assert_eq!(scene.asks(awaits(1, 6, 10_000)), Heard::Later);
    assert_eq!(scene.next_due(), Some(10_000));
    assert_eq!(scene.asks(doc! { "hello": 1 }), Heard::NotMine, "one at a time");
    scene.later(1_000);
    // A heartbeat, which is no change.
    scene.says(&primary(1, 6));
    assert!(scene.poll().is_pending());
    scene.later(500);
    scene.says(&primary(1, 7));
    let reply = scene.reply();
    assert_eq!((reply.counter(), reply.header.response_to, reply.more_to_come), (7, 50, false));
    assert!(!scene.service.is_waiting() && scene.poll().is_pending() && scene.next_due().is_none());

    assert_eq!(scene.asks(awaits(1, 7, 10_000)), Heard::Later);
    scene.later(9_999);
    assert!(scene.poll().is_pending());
    scene.later(1);
    let reply = scene.reply();
    let local_time = reply.document.get_datetime("localTime").unwrap().timestamp_millis();
    assert_eq!((reply.counter(), local_time), (7, 11_000));

    // A process that has been started again, before the loss of the old one was noticed.
    assert_eq!(scene.asks(awaits(1, 7, 10_000)), Heard::Later);
    scene.says(&primary(2, 7));
    assert_eq!(scene.reply().counter(), 7);
}

#[test]
fn a_client_ahead_of_the_monitor_hears_of_the_next_change() {
    let mut scene = Scene::new(&primary(1, 6));
    assert_eq!(scene.asks(awaits(1, 7, 10_000)), Heard::Later);
    scene.says(&primary(1, 7));
    assert!(scene.poll().is_pending(), "the client knows it");
    scene.says(&primary(1, 8));
    assert_eq!(scene.reply().counter(), 8);
}

#[test]
fn a_stream_is_a_chain_of_replies() {
    let mut scene = Scene::new(&primary(1, 6));
    assert_eq!(scene.asks_with(STREAM, awaits(1, 6, 10_000)), Heard::Later);
    scene.says(&primary(1, 7));
    let reply = scene.reply();
    assert_eq!((reply.counter(), reply.chain()), (7, (1, 50, true)));
    assert!(scene.poll().is_pending() && scene.service.is_waiting());
    scene.later(10_000);
    let reply = scene.reply();
    assert_eq!((reply.counter(), reply.chain()), (7, (2, 1, true)));
    assert_eq!(scene.next_due(), Some(20_000));
    scene.later(3_000);
    // Two changes while the client was slow.
    scene.says(&primary(1, 8));
    scene.says(&primary(1, 9));
    let reply = scene.reply();
    assert_eq!((reply.counter(), reply.chain()), (9, (3, 2, true)));
    assert!(scene.poll().is_pending());
    assert_eq!(scene.next_due(), Some(23_000));

    let last = Reply::read(&scene.service.finish(scene.now).unwrap());
    assert_eq!((last.counter(), last.chain()), (9, (4, 3, false)));
    assert!(!scene.service.is_waiting());
    assert!(matches!(scene.asks(doc! { "hello": 1 }), Heard::Reply(_)));
}

#[test]
fn a_stream_begins_at_once_for_a_client_that_knows_another_state() {
    let mut scene = Scene::new(&primary(1, 6));
    let first = Reply::of(scene.asks_with(STREAM, awaits(1, 3, 10_000)));
    assert_eq!((first.counter(), first.chain()), (6, (1, 50, true)));
    assert!(scene.service.is_waiting() && scene.poll().is_pending());
    assert_eq!(scene.next_due(), Some(10_000));
    scene.says(&primary(1, 7));
    assert_eq!(scene.reply().chain(), (2, 1, true));
}

#[test]
fn times_of_any_size_are_bounded() {
    let mut scene = Scene::new(&primary(1, 6));
    assert_eq!(scene.asks(awaits(1, 6, i64::MAX)), Heard::Later);
    assert_eq!(scene.next_due(), Some(WAIT_MAX.as_millis()));
    scene.later(u64::try_from(WAIT_MAX.as_millis()).unwrap());
    assert_eq!(scene.reply().counter(), 6);
    // A stream without a pause.
    let mut scene = Scene::new(&primary(1, 6));
    assert_eq!(scene.asks_with(STREAM, awaits(1, 6, 0)), Heard::Later);
    assert!(scene.poll().is_pending());
    scene.later(100);
    assert_eq!(scene.reply().chain(), (1, 50, true));
    assert!(scene.poll().is_pending());
}

#[test]
fn request_ids_of_a_stream_stay_positive() {
    let mut scene = Scene::new(&primary(1, 6));
    assert_eq!(scene.asks_with(STREAM, awaits(1, 6, 1_000)), Heard::Later);
    scene.service.waiting.as_mut().unwrap().stream.as_mut().unwrap().next_id = i32::MAX;
    for expected in [(i32::MAX, 50, true), (1, i32::MAX, true), (2, 1, true)] {
        scene.later(1_000);
        assert_eq!(scene.reply().chain(), expected);
    }
}

#[test]
fn the_loss_of_the_member_is_reported_to_a_client_that_waits() {
    for flags in [0, STREAM] {
        // It may have been reached again before the client's turn came.
        for is_back in [false, true] {
            let mut scene = Scene::new(&primary(1, 6));
            assert_eq!(scene.asks_with(flags, awaits(1, 6, 10_000)), Heard::Later);
            assert!(scene.poll().is_pending());
            scene.feed.lose();
            if is_back {
                scene.says(&primary(1, 6));
            }
            assert_eq!(scene.service.finish(scene.now), None);
            assert!(scene.service.is_waiting());
            assert_eq!(scene.poll(), Poll::Ready(Event::Lost));
            assert!(!scene.service.is_waiting() && scene.poll().is_pending());
        }
    }
    // A server without streaming, at the same address.
    let mut scene = Scene::new(&primary(1, 6));
    assert_eq!(scene.asks(awaits(1, 6, 10_000)), Heard::Later);
    scene.says(&doc! { "ismaster": true, "ok": 1.0 });
    assert_eq!(scene.poll(), Poll::Ready(Event::Lost));
}

#[test]
fn finish_answers_a_client_that_waits_for_one_reply() {
    let mut scene = Scene::new(&primary(1, 6));
    assert_eq!(scene.asks(awaits(1, 6, 10_000)), Heard::Later);
    let last = Reply::read(&scene.service.finish(scene.now).unwrap());
    assert_eq!((last.counter(), last.header.response_to, last.more_to_come), (6, 50, false));
    assert!(!scene.service.is_waiting() && scene.service.finish(scene.now).is_none());
}

#[tokio::test]
async fn a_waiting_client_is_woken_by_its_member() {
    let mut scene = Scene::new(&primary(1, 6));
    assert_eq!(scene.asks_with(STREAM, awaits(1, 6, 10_000)), Heard::Later);
    let Scene { feed, mut service, now, .. } = scene;
    let (sender, mut events) = tokio::sync::mpsc::channel(1);
    let client = async {
        loop {
            let event = std::future::poll_fn(|cx| service.poll(now, cx)).await;
            let is_over = event == Event::Lost;
            sender.send(event).await.unwrap();
            if is_over {
                return;
            }
        }
    };
    let member = async {
        for counter in [7, 8] {
            let hello = RawDocumentBuf::try_from(&primary(1, counter)).unwrap();
            feed.publish(KnownHello::new(hello, now.into_std()), KnownHello::differs_from);
            let Some(Event::Reply(message)) = events.recv().await else { panic!("no reply") };
            assert_eq!(Reply::read(&message).counter(), counter);
            // The client registers again.
            tokio::task::yield_now().await;
        }
        feed.lose();
        assert_eq!(events.recv().await, Some(Event::Lost));
    };
    tokio::join!(biased; client, member);
}

#[test]
fn a_client_costs_little_memory() {
    assert!(size_of::<HelloService>() <= 24 && size_of::<Waiting>() <= 256, "{}", size_of::<Waiting>());
}

#[test]
fn a_hello_that_the_gateway_cannot_read_is_not_used() {
    let mut document = crate::wire::bson_elements::DocumentBytes::with_capacity(0);
    document.push_value(8, b"isWritablePrimary", &[1]);
    document.push(&[0x42, b'x', 0]);
    let scene = Scene::new(&primary(1, 6));
    let damaged = RawDocumentBuf::from_bytes(document.finish()).unwrap();
    scene.feed.publish(KnownHello::new(damaged, scene.now.into_std()), KnownHello::differs_from);
    let mut scene = scene;
    assert_eq!(scene.asks(doc! { "hello": 1 }), Heard::NotMine);
}

#[test]
fn a_server_that_requires_an_api_version_answers_itself_where_the_client_declares_none() {
    let mut scene = Scene::new(&primary(1, 6));
    let hello = KnownHello::new(RawDocumentBuf::try_from(&primary(1, 6)).unwrap(), scene.now.into_std());
    scene.feed.publish(KnownHello { requires_api: true, ..hello }, KnownHello::differs_from);
    assert_eq!(scene.asks(doc! { "hello": 1 }), Heard::NotMine);
    assert!(matches!(scene.asks(doc! { "hello": 1, "apiVersion": "1" }), Heard::Reply(_)));
}
