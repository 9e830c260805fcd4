//! Where the reader of requests stands in its input.

/// One reading of an input: `sent <= start <= at <= input.len()`, but for a message that is released, of which `start` is
/// no longer of interest.
pub(in crate::relay) struct ReadCursor<'i, P> {
    pub(in crate::relay) input: &'i [u8],
    /// What is before has been read.
    pub(in crate::relay) at: usize,
    /// What is before is settled: it has gone upstream, or will not.
    pub(in crate::relay) sent: usize,
    /// Where the current message starts.
    pub(in crate::relay) start: usize,
    pub(in crate::relay) pass: &'i mut P,
}

impl<'i, P: FnMut(&[u8])> ReadCursor<'i, P> {
    /// The current message as far as it has been read.
    pub(in crate::relay) fn message(&self) -> &'i [u8] {
        &self.input[self.start..self.at]
    }

    /// Lets go what is before `end`.
    pub(in crate::relay) fn pass_to(&mut self, end: usize) {
        if end > self.sent {
            (self.pass)(&self.input[self.sent..end]);
            self.sent = end;
        }
    }

    /// Lets go what is before the current message, and nothing of it.
    pub(in crate::relay) fn drop_message(&mut self) {
        self.pass_to(self.start);
        self.sent = self.at;
    }

    /// All is read; there is nothing to go on with.
    pub(in crate::relay) fn all(&mut self) -> bool {
        self.at = self.input.len();
        false
    }
}
