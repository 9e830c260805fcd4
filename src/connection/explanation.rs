//! What is said about the end of a connection.

use std::borrow::Cow;

use crate::wire::error_reply::CommandError;

/// The explanation for the operator, and perhaps for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EndingExplanation {
    /// The `kind` in log lines, from a closed set. Repeated rejections with the same label are logged only now and
    /// then.
    pub(super) label: &'static str,
    /// The `reason` in log lines.
    pub(super) summary: Cow<'static, str>,
    /// What the operator can do, if anything.
    pub(super) remedy: Option<Cow<'static, str>>,
    /// The reply to the client's first message, if it gets one.
    pub(super) client_error: Option<CommandError>,
}

impl EndingExplanation {
    /// An explanation without a remedy or a reply.
    pub(super) fn new(label: &'static str, summary: impl Into<Cow<'static, str>>) -> Self {
        Self { label, summary: summary.into(), remedy: None, client_error: None }
    }

    pub(super) fn with_remedy(self, remedy: impl Into<Cow<'static, str>>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// `message` is the text of the MongoDB error, without the prefix `mongate: `.
    pub(super) fn with_client_error(self, code: (i32, &'static str), message: &str) -> Self {
        let (code, code_name) = code;
        let error = CommandError { code, code_name, message: format!("mongate: {message}") };
        Self { client_error: Some(error), ..self }
    }
}
