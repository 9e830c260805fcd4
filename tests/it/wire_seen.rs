//! Sends bytes to mongod directly and through the gateway, at several positions of a connection, and compares the
//! results.

use std::io;

use bson::{Document, doc};

use crate::kit::gateway::Gateway;
use crate::kit::mongod::Mongod;
use crate::kit::raw::{Connection, Received, body_section, op_msg};

/// Request id of a row's message.
pub const ROW: i32 = 77;
/// Request id of the pings before and after it.
pub const PING: i32 = 78;

/// Expected behaviour of mongod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It replies without an error, and the connection stays usable.
    Ok,
    /// It replies with this error code, and the connection stays usable.
    Code(i32),
    /// It sends no reply, and the connection stays usable.
    Silence,
    /// It closes the connection without a reply.
    Closed,
}

/// Position on a connection at which a row is sent.
#[derive(Debug, Clone, Copy)]
pub enum Position {
    /// As the first message.
    First,
    /// After the replies to a hello and a ping.
    AfterHello,
    /// In the same write as a ping, directly behind it.
    BehindPing,
}

/// A message, and the expected behaviour of mongod.
pub struct Row {
    name: String,
    bytes: Vec<u8>,
    expected: Expected,
}

/// Observed behaviour.
#[derive(Debug, PartialEq)]
enum Seen {
    Reply { op_code: i32, flags: u32, code: Option<i32>, message: String, usable: bool },
    Silence,
    Closed { bytes_before: usize },
    Neither(String),
}

/// Sends each row to mongod directly and through the gateway, at each position. mongod must behave as expected, and the
/// gateway's client must see exactly the same.
pub fn check(rows: &[Row]) {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::to(&mongod);
    let mut failures = Vec::new();
    for (row, position) in rows.iter().flat_map(|row| Position::ALL.map(|position| (row, position))) {
        let name = format!("{} ({position:?})", row.name);
        let direct = row.observe(position, &mut mongod.connect().unwrap());
        if !direct.is(row.expected) {
            failures.push(format!("{name}: expected {:?}, mongod does {direct:?}", row.expected));
        }
        let through = row.observe(position, &mut gateway.connect().unwrap());
        if through != direct {
            failures.push(format!("{name}: mongod does {direct:?}, the gateway {through:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_alive(&gateway);
}

/// Checks that the gateway is alive and forwards a command.
pub fn assert_alive(gateway: &Gateway) {
    assert_eq!(gateway.get("/livez").unwrap().status, 200);
    gateway.connect().unwrap().run(&ping()).unwrap();
}

impl Row {
    /// One row of a table; the request id of its bytes is [`ROW`].
    pub fn new(name: impl Into<String>, bytes: Vec<u8>, expected: Expected) -> Self {
        Self { name: name.into(), bytes, expected }
    }

    fn observe(&self, position: Position, connection: &mut Connection) -> Seen {
        // The peer may close the connection during the write. What it did is read below.
        let _ = position.send(connection, &self.bytes);
        if matches!(position, Position::BehindPing) && !is_pong(&connection.receive()) {
            return Seen::Neither("no reply to the ping before it".to_owned());
        }
        if self.expected == Expected::Silence {
            return Self::observe_silence(connection);
        }
        match connection.receive() {
            Err(error) => Seen::Neither(format!("{error:#}")),
            Ok(Received::Closed(bytes)) => Seen::Closed { bytes_before: bytes.len() },
            Ok(Received::Reply(reply)) => {
                assert_eq!(reply.response_to, ROW, "{}", self.name);
                let message = reply.document.get_str("errmsg").unwrap_or_default().to_owned();
                let (op_code, flags, code) = (reply.op_code, reply.flags, reply.code());
                Seen::Reply { op_code, flags, code, message, usable: answers_ping(connection) }
            }
        }
    }

    fn observe_silence(connection: &mut Connection) -> Seen {
        if answers_ping(connection) { Seen::Silence } else { Seen::Closed { bytes_before: 0 } }
    }
}

impl Position {
    /// All positions.
    pub const ALL: [Self; 3] = [Self::First, Self::AfterHello, Self::BehindPing];

    /// Brings the connection to this position and sends `bytes`.
    pub fn send(self, connection: &mut Connection, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::First => {}
            Self::AfterHello => {
                connection.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
                connection.run(&ping()).unwrap();
            }
            Self::BehindPing => {
                return connection.send(&[&op_msg(PING, 0, &[body_section(&ping())])[..], bytes].concat());
            }
        }
        connection.send(bytes)
    }
}

impl Seen {
    fn is(&self, expected: Expected) -> bool {
        match (self, expected) {
            (Self::Reply { code, usable: true, .. }, Expected::Ok) => code.is_none(),
            (Self::Reply { code, usable: true, .. }, Expected::Code(wanted)) => *code == Some(wanted),
            (Self::Silence, Expected::Silence) => true,
            (Self::Closed { bytes_before }, Expected::Closed) => *bytes_before == 0,
            _ => false,
        }
    }
}

/// Sends a ping, and returns whether the next message is its reply.
fn answers_ping(connection: &mut Connection) -> bool {
    let _ = connection.send(&op_msg(PING, 0, &[body_section(&ping())]));
    is_pong(&connection.receive())
}

fn is_pong(received: &anyhow::Result<Received>) -> bool {
    matches!(received, Ok(Received::Reply(reply)) if reply.response_to == PING && reply.code().is_none())
}

/// The command ping.
pub fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}
