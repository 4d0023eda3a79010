//! How a trace passes through a process: taken from a call's metadata, carried by spans, put into the metadata of the next call.
//!
//! The format is W3C Trace Context (`traceparent`). Where no traces are exported, all of this costs a branch.

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The target of spans that belong to traces. Logs are without them: at two or three to a call they would drown the rest.
pub const TRACE_TARGET: &str = "semel_trace";

/// Callers of one batch that its span is linked to, beside the one whose child it is.
const LINKS_MAX: usize = 63;

/// Makes a span of a trace: `traced!("scan", shard = 7)`. Fields are identifiers and counts; never templates or scores.
#[macro_export]
macro_rules! traced {
    ($name:literal $(, $($fields:tt)*)?) => {
        $crate::tracing::debug_span!(target: "semel_trace", $name $(, $($fields)*)?)
    };
}

/// Makes `span`, which must not have been entered yet, part of the trace that a call's metadata names. Without one, or with one that
/// cannot be read, it starts a trace of its own.
pub fn continued(span: Span, metadata: &MetadataMap) -> Span {
    if !span.is_disabled() {
        let context = TraceContextPropagator::new().extract(&Metadata(metadata));
        if context.span().span_context().is_valid() {
            // Fails only where no trace is exported.
            let _ = span.set_parent(context);
        }
    }
    span
}

/// Puts the trace of the current span into the metadata of a call.
pub fn carry(metadata: &mut MetadataMap) {
    let span = Span::current();
    if !span.is_disabled() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut MetadataMut(metadata));
    }
}

/// Makes `span`, which must not have been entered yet, the child of the first of its callers that is sampled, and links it to others of
/// them: what serves many callers at once belongs to all of their traces.
pub fn follow_callers<'a>(span: Span, callers: impl IntoIterator<Item = &'a Span>) -> Span {
    if span.is_disabled() {
        return span;
    }
    let contexts = callers.into_iter().map(|caller| caller.context());
    let mut sampled = contexts.filter(|context| context.span().span_context().is_sampled());
    if let Some(first) = sampled.next() {
        // Fails only where no trace is exported.
        let _ = span.set_parent(first);
    }
    for context in sampled.take(LINKS_MAX) {
        span.add_link(context.span().span_context().clone());
    }
    span
}

/// The id of the trace that a span belongs to, 32 hexadecimal digits; `None` where no trace is kept.
pub fn trace_id(span: &Span) -> Option<String> {
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| context.trace_id().to_string())
}

struct Metadata<'a>(&'a MetadataMap);

impl Extractor for Metadata<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        let name = |key| match key {
            tonic::metadata::KeyRef::Ascii(key) => key.as_str(),
            tonic::metadata::KeyRef::Binary(key) => key.as_str(),
        };
        self.0.keys().map(name).collect()
    }
}

struct MetadataMut<'a>(&'a mut MetadataMap);

impl Injector for MetadataMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        // The propagator's keys are ASCII; a state that a caller sent and that is none does not travel on.
        if let (Ok(key), Ok(value)) = (key.parse::<MetadataKey<Ascii>>(), value.parse::<MetadataValue<Ascii>>()) {
            self.0.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanId, TracerProvider as _};
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const SENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// The spans that `act` makes, in the order in which they end.
    fn spans(act: impl FnOnce()) -> Vec<SpanData> {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = crate::export::layer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), act);
        exporter.get_finished_spans().expect("the exporter is not locked")
    }

    #[test]
    fn a_trace_passes_from_metadata_through_spans_to_metadata() {
        let mut sent = MetadataMap::new();
        sent.insert("traceparent", SENT.parse().expect("ASCII"));
        let mut passed_on = MetadataMap::new();
        let spans = spans(|| {
            let _call = continued(crate::traced!("call"), &sent).entered();
            let _scan = crate::traced!("scan", shard = 7).entered();
            carry(&mut passed_on);
        });
        let [scan, call] = spans.as_slice() else { panic!("{spans:?}") };
        assert_eq!((scan.name.as_ref(), call.name.as_ref()), ("scan", "call"));
        assert_eq!(call.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(call.parent_span_id.to_string(), "b7ad6b7169203331");
        assert_eq!(scan.parent_span_id, call.span_context.span_id());
        let passed_on = passed_on.get("traceparent").expect("carried").to_str().expect("ASCII");
        let id = scan.span_context.span_id();
        assert_eq!(passed_on, format!("00-0af7651916cd43dd8448eb211c80319c-{id}-01"));
    }

    #[test]
    fn a_trace_that_cannot_be_read_starts_anew() {
        for sent in ["", "00-zz", "00-00000000000000000000000000000000-0000000000000000-01"] {
            let mut metadata = MetadataMap::new();
            metadata.insert("traceparent", sent.parse().expect("ASCII"));
            let spans = spans(|| drop(continued(crate::traced!("call"), &metadata).entered()));
            assert_eq!(spans[0].parent_span_id, SpanId::INVALID, "{sent}");
        }
    }

    #[test]
    fn a_batch_is_the_child_of_one_caller_and_linked_to_the_others() {
        let spans = spans(|| {
            let callers = [crate::traced!("one"), crate::traced!("other")];
            let batch = follow_callers(crate::traced!("batch"), &callers);
            batch.in_scope(|| ());
            drop(batch);
        });
        let of = |name: &str| spans.iter().find(|span| span.name == name).expect("it ended");
        let (batch, one, other) = (of("batch"), of("one"), of("other"));
        assert_eq!(batch.parent_span_id, one.span_context.span_id());
        let links: Vec<_> = batch.links.iter().map(|link| link.span_context.span_id()).collect();
        assert_eq!(links, [other.span_context.span_id()]);
    }

    #[test]
    fn spans_of_logs_are_no_part_of_a_trace() {
        let spans = spans(|| {
            let _call = crate::traced!("call").entered();
            let _logged = tracing::info_span!("request").entered();
            let _scan = crate::traced!("scan").entered();
        });
        let names: Vec<_> = spans.iter().map(|span| span.name.as_ref()).collect();
        assert_eq!(names, ["scan", "call"]);
        assert_eq!(spans[0].parent_span_id, spans[1].span_context.span_id());
    }

    #[test]
    fn without_an_exporter_nothing_is_carried() {
        let mut metadata = MetadataMap::new();
        let _span = crate::traced!("call").entered();
        carry(&mut metadata);
        assert!(metadata.is_empty());
    }
}
