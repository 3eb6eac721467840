//! Log lines: structured, to standard error, so that results on standard output stay clean.
//!
//! Three shapes: text for people, JSON, and JSON with the names that Google's Cloud Logging reads, in
//! which lines of one request are found by its trace.

use crate::settings::LogFormat;
use anyhow::Context;
use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use std::fmt;
use std::io::IsTerminal;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FmtSpan, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Installs the subscriber for the rest of the process. `project` names the Google Cloud project that
/// traces belong to; empty where that is not known.
pub fn init(format: LogFormat, level: &str, project: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(directives(level))
        .with_context(|| format!("log_level = `{level}` is refused: try info or kaplan=debug"))?;
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    let format = match format {
        LogFormat::Auto if terminal => LogFormat::Text,
        LogFormat::Auto => LogFormat::Json,
        chosen => chosen,
    };
    let installed = match format {
        LogFormat::Gcp => {
            let format = CloudLogging { project: project.to_owned() };
            builder.fmt_fields(JsonFields::new()).event_format(format).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text | LogFormat::Auto => builder.with_ansi(terminal).try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("cannot install the log subscriber: {error}"))
}

/// A bare level is meant for this program; the libraries below it speak only when something is
/// wrong, unless directives name them.
fn directives(level: &str) -> String {
    if level.contains(['=', ',']) { level.to_owned() } else { format!("warn,kaplan={level}") }
}

/// One JSON object a line, as Cloud Logging takes it apart: `severity`, `message`, `time`, the trace
/// under the names that link a line to its request, and everything else as it is.
struct CloudLogging {
    project: String,
}

impl CloudLogging {
    fn entry(&self, level: Level, mut fields: Map<String, Value>) -> Value {
        let trace = fields.remove("trace").and_then(|t| t.as_str().map(str::to_owned));
        if let Some(trace) = trace {
            let name = match self.project.as_str() {
                "" => trace,
                project => format!("projects/{project}/traces/{trace}"),
            };
            fields.insert("logging.googleapis.com/trace".to_owned(), name.into());
        }
        for (ours, theirs) in [
            ("span_id", "logging.googleapis.com/spanId"),
            ("trace_sampled", "logging.googleapis.com/trace_sampled"),
        ] {
            if let Some(value) = fields.remove(ours) {
                fields.insert(theirs.to_owned(), value);
            }
        }
        let severity = match level {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            _ => "DEBUG",
        };
        fields.insert("severity".to_owned(), severity.into());
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        fields.insert("time".to_owned(), now.into());
        Value::Object(fields)
    }
}

impl<S, N> FormatEvent<S, N> for CloudLogging
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let formatted = extensions.get::<FormattedFields<N>>();
            let parsed = formatted.and_then(|f| serde_json::from_str(&f.fields).ok());
            fields.0.extend(parsed.unwrap_or_else(Map::new));
        }
        event.record(&mut fields);
        fields.0.insert("target".to_owned(), event.metadata().target().into());
        writeln!(writer, "{}", self.entry(*event.metadata().level(), fields.0))
    }
}

/// The fields of an event as JSON.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn set(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, json!(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }
}
