//! The message header: the 16 bytes at the start of every message.
//!
//! Spec: `MongoDB` wire protocol § Standard Message Header. All integers are little-endian.

/// Bytes of a message header.
pub const HEADER_BYTES: usize = 16;

/// The largest message that mongod accepts, header included (`maxMessageSizeBytes`).
pub const MESSAGE_BYTES_MAX: u32 = 48_000_000;

/// An operation code. The constants are those that the gateway distinguishes.
///
/// Spec: `MongoDB` wire protocol § Opcodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpCode(pub i32);

impl OpCode {
    /// Reply to [`OpCode::QUERY`].
    pub const REPLY: Self = Self(1);
    /// Legacy query; drivers still use it for their first hello.
    pub const QUERY: Self = Self(2004);
    /// Legacy cursor read; mongod replies to it, since 6.0 with an error.
    pub const GET_MORE: Self = Self(2005);
    /// Compressed envelope around another message.
    pub const COMPRESSED: Self = Self(2012);
    /// Requests and replies of all current drivers.
    pub const MSG: Self = Self(2013);
}

/// A message header whose length is within the limits of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the whole message in bytes, header included: `16 <= length <= 48_000_000`.
    pub length: u32,
    /// Chosen by the sender.
    pub request_id: i32,
    /// In a reply, the ID of the request; in a request, 0.
    pub response_to: i32,
    /// The type of the message.
    pub op_code: OpCode,
}

/// A declared length that no message can have. The message boundaries of the stream are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message length {length} is not between 16 and 48000000")]
pub struct ImpossibleLength {
    /// The declared length.
    pub length: i32,
}

impl Header {
    /// Parses a header.
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, ImpossibleLength> {
        let [l0, l1, l2, l3, q0, q1, q2, q3, r0, r1, r2, r3, o0, o1, o2, o3] = bytes;
        let length = i32::from_le_bytes([l0, l1, l2, l3]);
        let checked = u32::try_from(length)
            .ok()
            .filter(|l| (16..=MESSAGE_BYTES_MAX).contains(l))
            .ok_or(ImpossibleLength { length })?;
        Ok(Self {
            length: checked,
            request_id: i32::from_le_bytes([q0, q1, q2, q3]),
            response_to: i32::from_le_bytes([r0, r1, r2, r3]),
            op_code: OpCode(i32::from_le_bytes([o0, o1, o2, o3])),
        })
    }

    /// The header as bytes on the wire.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let fields = [
            self.length.to_le_bytes(),
            self.request_id.to_le_bytes(),
            self.response_to.to_le_bytes(),
            self.op_code.0.to_le_bytes(),
        ];
        for (slot, field) in bytes.chunks_exact_mut(4).zip(fields) {
            slot.copy_from_slice(&field);
        }
        bytes
    }
}
