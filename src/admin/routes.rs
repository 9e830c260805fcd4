//! The page of each path. Reads its sources and changes nothing; request bodies are not read.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use crate::lifecycle::readiness::{Readiness, ReportScope};
use crate::telemetry::metrics::{Metrics, StateGauges, render_process_metrics};

/// Returns a snapshot of the gateway for `/status`. It is called for every request and must not block.
pub type StatusSource = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// Returns the current values of gauges. It is called for every request and must not block.
pub type GaugeSource = Arc<dyn Fn() -> StateGauges + Send + Sync>;

/// Where the pages get their contents.
pub struct Sources {
    /// For `/metrics`.
    pub metrics: Metrics,
    /// For `/metrics`: the values that nothing records.
    pub gauges: GaugeSource,
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For `/status`.
    pub status: StatusSource,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

const INDEX: &str = "mongate administration\n\
    \n\
    /livez    liveness probe: the process runs\n\
    /readyz   readiness probe: whether to send traffic here, and what is wrong\n\
    /metrics  metrics in the Prometheus text format\n\
    /status   listeners, upstreams, certificates and connections as JSON\n";

/// The response to a request, of which only the head is read.
pub(super) fn respond<B>(sources: &Sources, request: &Request<B>) -> Response<Full<Bytes>> {
    let page: fn(&Sources, &Request<B>) -> Response<Full<Bytes>> = match request.uri().path() {
        "/" => |_, _| answer(StatusCode::OK, TEXT, INDEX),
        "/livez" => |_, _| answer(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => readyz,
        "/metrics" => |sources, _| {
            let text = sources.metrics.render() + &(sources.gauges)().render() + &render_process_metrics();
            answer(StatusCode::OK, PROMETHEUS, text)
        },
        "/status" => |sources, _| answer(StatusCode::OK, JSON, json(&(sources.status)())),
        _ => return answer(StatusCode::NOT_FOUND, TEXT, "no such path; GET / lists the paths\n"),
    };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return method_not_allowed();
    }
    // For HEAD, hyper omits the body and keeps its length.
    page(sources, request)
}

fn readyz<B>(sources: &Sources, request: &Request<B>) -> Response<Full<Bytes>> {
    let scope = match scope(request.uri().query()) {
        Ok(scope) => scope,
        Err(sentence) => return answer(StatusCode::BAD_REQUEST, TEXT, sentence),
    };
    let Some(report) = sources.readiness.report_of(scope) else {
        return answer(StatusCode::NOT_FOUND, TEXT, "there is no such listener or upstream\n");
    };
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if accepts_json(request) {
        answer(status, JSON, json(&report))
    } else {
        answer(status, TEXT, format!("{report}\n"))
    }
}

/// What `?listener=NAME` or `?upstream=NAME` asks about. Names of the configuration need no percent-encoding.
fn scope(query: Option<&str>) -> Result<ReportScope<'_>, &'static str> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(ReportScope::All) };
    match query.split_once('=') {
        Some(("listener", name)) => Ok(ReportScope::Listener(name)),
        Some(("upstream", name)) => Ok(ReportScope::Upstream(name)),
        _ => Err("write /readyz?listener=NAME or /readyz?upstream=NAME\n"),
    }
}

fn accepts_json<B>(request: &Request<B>) -> bool {
    request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains(JSON))
}

fn json(value: &impl serde::Serialize) -> String {
    // Serialization cannot fail: the values have string keys only.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn method_not_allowed() -> Response<Full<Bytes>> {
    let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "this port is read-only; use GET\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
