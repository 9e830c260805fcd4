//! Messages for which the gateway itself sends an error or closes the connection: compressed messages, HTTP, and an
//! invalid length of the first message. Also how a connection is counted that mongod closes because of malformed bytes.

use std::time::Duration;

use serde_json::Value;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::ports;
use crate::kit::raw::{self, OP_COMPRESSED, OP_MSG, Received, body_section};
use crate::wire_seen::{PING, Position, ROW, assert_alive, ping};

#[test]
fn the_gateway_refuses_compressed_messages() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::to(&mongod);
    let payload = [&[0; 4][..], &body_section(&ping())].concat();
    let messages = [
        raw::op_compressed(ROW, OP_MSG, &payload),
        // Compressed twice, with an unknown operation code, and without room for its own header.
        raw::op_compressed(ROW, OP_COMPRESSED, &payload),
        raw::op_compressed(ROW, 4711, &[]),
        raw::message(OP_COMPRESSED, ROW, &[]),
        // The length is larger than the bytes that follow.
        raw::with_length(48_000_000, OP_COMPRESSED, ROW, &payload),
    ];
    for (bytes, position) in messages.iter().flat_map(|bytes| Position::ALL.map(|position| (bytes, position))) {
        let mut connection = gateway.connect().unwrap();
        position.send(&mut connection, bytes).unwrap();
        let mut reply = connection.reply().unwrap();
        if reply.response_to == PING {
            reply = connection.reply().unwrap();
        }
        assert_eq!((reply.response_to, reply.code()), (ROW, Some(17)), "{position:?}: {}", reply.document);
        assert!(matches!(connection.receive().unwrap(), Received::Closed(_)));
    }
    let refused = [("listener", "test"), ("outcome", "protocol_error")];
    let count = gateway.await_metric("mongate_connections_total", &refused, |count| count > 14.5);
    assert!((14.5..15.5).contains(&count), "{count} of 15 counted");
    assert_alive(&gateway);
}

#[test]
fn the_gateway_replies_to_http() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::to(&mongod);
    let mut connection = gateway.connect().unwrap();
    connection.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let Received::Closed(answer) = connection.receive().unwrap() else { panic!("a MongoDB reply to HTTP") };
    assert!(answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
    assert_alive(&gateway);
}

#[test]
fn an_invalid_first_length_opens_no_upstream_connection() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    // No server listens at this address, so an attempt to connect would be counted as failed.
    let nowhere = ports::Refusing::new().unwrap();
    let gateway =
        Gateway::start(&GatewayOptions { upstream_address: nowhere.address(), ..GatewayOptions::to(&mongod) });
    for length in [0, 15, -1, i32::MIN, 48_000_001, i32::MAX] {
        let mut connection = gateway.connect().unwrap();
        connection.send(&raw::with_length(length, OP_MSG, ROW, &[0; 40])).unwrap();
        assert!(matches!(connection.receive().unwrap(), Received::Closed(bytes) if bytes.is_empty()));
    }
    let counted = |outcome| [("listener", "test"), ("outcome", outcome)];
    let refused = gateway.await_metric("mongate_connections_total", &counted("protocol_error"), |count| count > 5.5);
    assert!((5.5..6.5).contains(&refused), "{refused} of 6 counted");
    assert!(gateway.metric("mongate_connections_total", &counted("upstream_failed")) < 0.5);
}

#[test]
fn a_connection_that_mongod_closes_for_malformed_bytes_counts_as_a_protocol_error() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::to(&mongod);
    let ping = [&[0; 4][..], &body_section(&ping())].concat();
    let messages = [
        raw::with_length(0, OP_MSG, ROW, &ping),
        raw::message(OP_MSG, ROW, &[]),
        raw::message(4711, ROW, &ping),
        raw::message(OP_MSG, ROW, &[&(1_u32 << 2).to_le_bytes()[..], &ping[4..]].concat()),
    ];
    for bytes in &messages {
        let mut connection = gateway.connect().unwrap();
        Position::AfterHello.send(&mut connection, bytes).unwrap();
        assert!(matches!(connection.receive().unwrap(), Received::Closed(_)));
    }
    let counted = |outcome| [("listener", "test"), ("outcome", outcome)];
    let refused = gateway.await_metric("mongate_connections_total", &counted("protocol_error"), |count| count > 3.5);
    assert!((3.5..4.5).contains(&refused), "{refused} of 4 counted");
    assert!(gateway.metric("mongate_connections_total", &counted("upstream_failed")) < 0.5);
    let fault = |event: &Value| event["outcome"] == "protocol_error" && event["ended_by"] == "upstream";
    let logged = gateway.wait_for_log(Duration::from_secs(10), fault).unwrap();
    assert!(logged["reason"].as_str().unwrap().contains("not valid in the MongoDB wire protocol"), "{logged}");
}
