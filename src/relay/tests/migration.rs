//! Connections that leave a replaced certificate set, with a paused clock.

use std::cell::Cell;

use super::*;

const WINDOW: Duration = Duration::from_secs(10);

type Server = server::TlsStream<DuplexStream>;

/// Runs the relay to its end, and offers what `make` returns whenever it asks. Returns how often it has moved.
async fn run(
    mut relay: Relay<DuplexStream, DuplexStream>,
    drain: &Drain,
    renewal: &Renewal,
    mut make: impl AsyncFnMut() -> Option<UpstreamSide<DuplexStream>>,
) -> (RelayEnd, u32) {
    run_with_introduction(&mut relay, drain, renewal, async |_| make().await).await
}

/// The same, where `make` takes the introduction.
async fn run_with_introduction(
    relay: &mut Relay<DuplexStream, DuplexStream>,
    drain: &Drain,
    renewal: &Renewal,
    mut make: impl AsyncFnMut(&[u8]) -> Option<UpstreamSide<DuplexStream>>,
) -> (RelayEnd, u32) {
    let (drain, renewal) = (drain.watch(), renewal.watch());
    let mut moved = 0;
    loop {
        match relay.run(Vec::new(), &drain, &renewal).await {
            RelayEvent::Ended(end) => return (end, moved),
            RelayEvent::Moved => moved += 1,
            RelayEvent::Renew => match make(relay.introduction().unwrap()).await {
                Some(side) => relay.offer(side),
                None => relay.postpone(),
            },
            event => unreachable!("the upstream connection is not shared: {event:?}"),
        }
    }
}

/// A mongod that answers every request with `ok: 1` and its own name until its connection closes, and counts them in
/// `seen`.
async fn answer_all(mut server: Server, name: &str, seen: &Cell<u32>) {
    let mut head = [0; HEADER_BYTES];
    while server.read_exact(&mut head).await.is_ok() {
        let header = Header::parse(head).unwrap();
        let mut rest = vec![0; header.length as usize - HEADER_BYTES];
        server.read_exact(&mut rest).await.unwrap();
        seen.set(seen.get() + 1);
        let answer = op_msg::encode(90, header.request_id, &rawdoc! { "name": name, "ok": 1.0 });
        server.write_all(&answer).await.unwrap();
        server.flush().await.unwrap();
    }
}

fn hello() -> Document {
    doc! { "hello": 1, "client": { "driver": { "name": "test" } }, "$db": "admin" }
}

async fn ask(client: &mut DuplexStream, id: i32, command: &Document) -> Vec<u8> {
    client.write_all(&request(id, command)).await.unwrap();
    let reply = read_message(client).await;
    assert_eq!(Header::parse(*reply.first_chunk().unwrap()).unwrap().response_to, id);
    reply
}

fn comes_from(reply: &[u8], name: &str) -> bool {
    reply.windows(name.len()).any(|bytes| bytes == name.as_bytes())
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_client_moves_between_its_commands_and_loses_none() {
    // mongod requires no hello. A client that has sent none needs no introduction.
    for (first, introduction) in [(hello(), request(1, &hello())), (doc! { "ping": 1, "$db": "admin" }, Vec::new())] {
        busy_client(first, &introduction).await;
    }
}

async fn busy_client(first: Document, introduction: &[u8]) {
    let Scene { mut client, upstream: old, mut relay, drain } = scene(OFF).await;
    let (renewal, old_seen, new_seen) = (Renewal::new(WINDOW), Cell::new(0), Cell::new(0));
    let (side, new) = upstream(1).await;
    let mut side = Some(side);
    let script = async {
        ask(&mut client, 1, &first).await;
        renewal.begin(1);
        // Several commands come before and after the move, and none of them waits.
        let mut names = Vec::new();
        for id in 2..200 {
            let reply = ask(&mut client, id, &doc! { "ping": 1, "$db": "admin" }).await;
            names.push(comes_from(&reply, "new"));
            pause(100).await;
        }
        assert!(names.is_sorted(), "it moves once");
        assert!(names[50], "it has moved by the middle of the window");
        drop(client);
    };
    let ((end, moved), (), (), ()) = tokio::join!(
        run_with_introduction(&mut relay, &drain, &renewal, async |hello: &[u8]| {
            assert_eq!(hello, introduction);
            side.take()
        }),
        script,
        answer_all(old, "old", &old_seen),
        answer_all(new, "new", &new_seen),
    );
    is(&end, Side::Client, "closed");
    assert_eq!((moved, end.commands, end.unanswered), (1, 199, 0));
    assert_eq!(old_seen.get() + new_seen.get(), 199);
}

#[tokio::test(start_paused = true)]
async fn a_move_waits_for_the_command_in_flight_and_for_open_cursors() {
    let Scene { mut client, upstream: mut old, relay, drain } = scene(OFF).await;
    let renewal = Renewal::new(WINDOW);
    let (side, new) = upstream(1).await;
    let mut side = Some(side);
    let (new_seen, began) = (Cell::new(0), Instant::now());
    let script = async {
        client.write_all(&request(1, &hello())).await.unwrap();
        read_message(&mut old).await;
        old.write_all(&reply(90, 1)).await.unwrap();
        read_message(&mut client).await;
        client.write_all(&request(2, &doc! { "find": "c", "$db": "s" })).await.unwrap();
        read_message(&mut old).await;
        renewal.begin(1);
        pause(1000).await;
        // The client has a cursor now, and no command in flight.
        let opened = rawdoc! { "cursor": { "firstBatch": [], "id": 7_i64, "ns": "s.c" }, "ok": 1.0 };
        old.write_all(&op_msg::encode(91, 2, &opened)).await.unwrap();
        read_message(&mut client).await;
        pause(2000).await;
        client.write_all(&request(3, &doc! { "getMore": 7_i64, "collection": "c", "$db": "s" })).await.unwrap();
        read_message(&mut old).await;
        let exhausted = rawdoc! { "cursor": { "nextBatch": [], "id": 0_i64, "ns": "s.c" }, "ok": 1.0 };
        old.write_all(&op_msg::encode(92, 3, &exhausted)).await.unwrap();
        read_message(&mut client).await;
        // The old connection closes in order.
        assert_eq!(old.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), 3);
        assert!(comes_from(&ask(&mut client, 4, &doc! { "ping": 1, "$db": "admin" }).await, "new"));
        drop(client);
    };
    let ((end, moved), (), ()) =
        tokio::join!(run(relay, &drain, &renewal, async || side.take()), script, answer_all(new, "new", &new_seen),);
    assert_eq!((moved, end.commands, end.unanswered), (1, 4, 0));
}

#[tokio::test(start_paused = true)]
async fn a_cursor_delays_a_move_for_half_of_the_window_at_most() {
    let Scene { mut client, upstream: mut old, relay, drain } = scene(OFF).await;
    let renewal = Renewal::new(WINDOW);
    let (side, _new) = upstream(1).await;
    let mut side = Some(side);
    let script = async {
        client.write_all(&request(1, &hello())).await.unwrap();
        read_message(&mut old).await;
        let opened = rawdoc! { "cursor": { "firstBatch": [], "id": 7_i64, "ns": "s.c" }, "ok": 1.0 };
        old.write_all(&op_msg::encode(91, 1, &opened)).await.unwrap();
        read_message(&mut client).await;
        renewal.begin(1);
        let began = Instant::now();
        assert_eq!(old.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), WINDOW.as_secs() / 2);
        drop(client);
    };
    let ((_, moved), ()) = tokio::join!(run(relay, &drain, &renewal, async || side.take()), script);
    assert_eq!(moved, 1);
}

/// Sends the messages of `opening`, each of which is answered with `ok: 1` and these flags, and replaces the
/// certificate set. Returns after how many seconds the gateway closes. It must not ask for another upstream connection.
async fn closed_after(opening: Vec<Vec<u8>>, flags: u32) -> u64 {
    let Scene { mut client, upstream: mut old, relay, drain } = scene(OFF).await;
    let renewal = Renewal::new(WINDOW);
    let script = async {
        for message in opening {
            client.write_all(&message).await.unwrap();
            let header = Header::parse(*read_message(&mut old).await.first_chunk().unwrap()).unwrap();
            old.write_all(&with_flags(reply(90, header.request_id), flags)).await.unwrap();
            read_message(&mut client).await;
        }
        renewal.begin(1);
        let began = Instant::now();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        began.elapsed().as_secs()
    };
    let ((end, moved), seconds) =
        tokio::join!(run(relay, &drain, &renewal, async || unreachable!("it cannot move")), script);
    is(&end, Side::Gateway, "certificate renewed");
    assert!(end.is_orderly());
    assert_eq!(moved, 0);
    seconds
}

#[tokio::test(start_paused = true)]
async fn a_client_that_cannot_move_is_closed_when_it_is_quiet() {
    let ping = request(2, &doc! { "ping": 1, "$db": "admin" });
    let hello = request(1, &hello());
    let authenticates = request(2, &doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "$db": "admin" });
    let speculates = request(1, &doc! { "hello": 1, "speculativeAuthenticate": { "saslStart": 1 }, "$db": "admin" });
    let waits = request(1, &doc! { "hello": 1, "maxAwaitTimeMS": 1000, "$db": "admin" });
    let late = vec![ping, waits.clone()];
    for opening in [vec![authenticates.clone()], vec![hello.clone(), authenticates], vec![speculates], late] {
        assert_eq!(closed_after(opening, 0).await, 1);
    }
    // A stream of replies never ends by itself, and this one cannot be restarted.
    let Scene { mut client, upstream: mut old, relay, drain } = scene(OFF).await;
    let renewal = Renewal::new(WINDOW);
    let script = async {
        for (message, flags) in [(hello, 0), (with_flags(waits, 1 << 16), 2)] {
            client.write_all(&message).await.unwrap();
            read_message(&mut old).await;
            old.write_all(&with_flags(reply(90, 1), flags)).await.unwrap();
            read_message(&mut client).await;
        }
        renewal.begin(1);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    };
    let ((end, _), ()) = tokio::join!(run(relay, &drain, &renewal, async || unreachable!()), script);
    is(&end, Side::Gateway, "certificate renewed");
}

#[tokio::test(start_paused = true)]
async fn a_monitors_stream_of_replies_is_restarted() {
    let Scene { mut client, upstream: mut old, relay, drain } = scene(OFF).await;
    let renewal = Renewal::new(WINDOW);
    let (side, mut new) = upstream(1).await;
    let mut side = Some(side);
    let process = bson::oid::ObjectId::from_bytes([7; 12]);
    let topology = doc! { "processId": process, "counter": 6_i64 };
    let waits = doc! { "hello": 1, "maxAwaitTimeMS": 10_000, "topologyVersion": topology, "$db": "admin" };
    let script = async {
        client.write_all(&request(1, &hello())).await.unwrap();
        read_message(&mut old).await;
        old.write_all(&reply(449, 1)).await.unwrap();
        read_message(&mut client).await;
        let waits = with_flags(request(500, &waits), 1 << 16);
        client.write_all(&waits).await.unwrap();
        assert_eq!(read_message(&mut old).await, waits);
        for (id, response_to) in [(450, 500), (451, 450)] {
            old.write_all(&with_flags(reply(id, response_to), 2)).await.unwrap();
            read_message(&mut client).await;
        }
        renewal.begin(1);
        // It is the same request, except for a process id that no mongod has.
        let asked = read_message(&mut new).await;
        let changed: Vec<_> = asked.iter().zip(&waits).filter(|(asked, waits)| asked != waits).collect();
        assert_eq!((asked.len(), changed), (waits.len(), vec![(&0xF8, &7)]));
        assert_eq!(old.read(&mut [0]).await.unwrap(), 0);
        // The first reply there is the next one in the client's stream. It arrives in pieces.
        let (first, second) = (with_flags(reply(90, 500), 2), with_flags(reply(91, 90), 2));
        for piece in [&first[..9], &first[9..], &second[..]] {
            new.write_all(piece).await.unwrap();
            new.flush().await.unwrap();
            pause(1).await;
        }
        assert_eq!(read_message(&mut client).await, with_flags(reply(90, 451), 2));
        assert_eq!(read_message(&mut client).await, second);
        drop(client);
        drop(new);
    };
    let ((end, moved), ()) = tokio::join!(run(relay, &drain, &renewal, async || side.take()), script);
    assert_eq!((moved, end.commands), (1, 2));
    is(&end, Side::Client, "closed");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_cannot_move_and_is_never_quiet_is_closed_between_two_commands_at_the_deadline() {
    let Scene { mut client, upstream: old, relay, drain } = scene(OFF).await;
    let (renewal, seen) = (Renewal::new(WINDOW), Cell::new(0));
    let script = async {
        ask(&mut client, 1, &doc! { "logout": 1, "$db": "admin" }).await;
        renewal.begin(1);
        let began = Instant::now();
        let mut asked = 1;
        // Each command is answered at once, so that the gateway closes between two of them.
        loop {
            pause(70).await;
            asked += 1;
            if client.write_all(&request(asked, &doc! { "ping": 1, "$db": "admin" })).await.is_err() {
                break;
            }
            read_message(&mut client).await;
        }
        let lasted = began.elapsed();
        assert!(lasted >= WINDOW && lasted < WINDOW + Duration::from_millis(200), "{lasted:?}");
    };
    let ((end, _), (), ()) =
        tokio::join!(run(relay, &drain, &renewal, async || None), script, answer_all(old, "old", &seen));
    is(&end, Side::Gateway, "certificate renewed");
    assert_eq!(end.unanswered, 0);
}

#[tokio::test(start_paused = true)]
async fn without_another_connection_the_old_one_stays_in_use_and_another_is_requested_later() {
    let Scene { mut client, upstream: old, relay, drain } = scene(OFF).await;
    let (renewal, old_seen, new_seen, tries) = (Renewal::new(WINDOW), Cell::new(0), Cell::new(0), Cell::new(0));
    let (side, new) = upstream(1).await;
    let mut side = Some(side);
    let make = async || {
        tries.set(tries.get() + 1);
        match tries.get() {
            // There is none at first, then one that mongod has closed already.
            1 | 2 => None,
            3 => Some(upstream(1).await.0),
            _ => side.take(),
        }
    };
    let script = async {
        ask(&mut client, 1, &hello()).await;
        renewal.begin(1);
        let mut id = 1;
        while new_seen.get() == 0 {
            id += 1;
            ask(&mut client, id, &doc! { "ping": 1, "$db": "admin" }).await;
            pause(50).await;
        }
        drop(client);
    };
    let ((end, moved), (), (), ()) = tokio::join!(
        run(relay, &drain, &renewal, make),
        script,
        answer_all(old, "old", &old_seen),
        answer_all(new, "new", &new_seen),
    );
    is(&end, Side::Client, "closed");
    assert_eq!((moved, tries.get(), end.unanswered), (1, 4, 0));
}

#[tokio::test(start_paused = true)]
async fn a_second_renewal_moves_a_second_time() {
    let Scene { mut client, upstream: old, relay, drain } = scene(OFF).await;
    let (renewal, seen) = (Renewal::new(WINDOW), Cell::new(0));
    let ((first, second), (third, fourth)) = (upstream(1).await, upstream(2).await);
    let mut sides = vec![third, first];
    let script = async {
        ask(&mut client, 1, &hello()).await;
        for (id, name) in [(2, "second"), (3, "third")] {
            renewal.begin(u64::try_from(id).unwrap() - 1);
            pause(10_000).await;
            assert!(comes_from(&ask(&mut client, id, &doc! { "ping": 1, "$db": "admin" }).await, name));
        }
        drop(client);
    };
    let ((_, moved), (), (), (), ()) = tokio::join!(
        run(relay, &drain, &renewal, async || sides.pop()),
        script,
        answer_all(old, "first", &seen),
        answer_all(second, "second", &seen),
        answer_all(fourth, "third", &seen),
    );
    assert_eq!(moved, 2);
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_move() {
    let Scene { mut client, upstream: old, relay, drain } = scene(OFF).await;
    let (renewal, seen) = (Renewal::new(WINDOW), Cell::new(0));
    let script = async {
        ask(&mut client, 1, &hello()).await;
        renewal.begin(1);
        pause(1).await;
        drain.begin();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    };
    let ((end, _), (), ()) =
        tokio::join!(run(relay, &drain, &renewal, async || None), script, answer_all(old, "old", &seen));
    is(&end, Side::Gateway, "drained");
}
