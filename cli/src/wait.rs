//! `causeway wait`: until objects are as one wants them, or gone.

use std::{io::Write, str::FromStr, time::Duration};

use causeway_proto::{
    Kind,
    client::{Change, ListOptions, Watcher},
    manifest,
    selector::FieldSelector,
    v1::Object,
};
use clap::Args;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    context::Context,
    error::{CliError, Failures},
    objects::{self, SelectArgs},
    target::Targets,
};

/// Options of `causeway wait`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    causeway wait pod/web --for=condition=Ready\n  \
    causeway wait pods -l app=web --for=condition=Ready --timeout=60s\n  \
    causeway wait node/node-1 --for=condition=Ready=False\n  \
    causeway wait rc/web --for=jsonpath='{.status.readyReplicas}'=5\n  \
    causeway wait pod/web --for=delete --timeout=2m")]
pub struct WaitArgs {
    /// KIND [NAME…] or KIND/NAME…
    #[arg(required = true, value_name = "KIND NAME")]
    targets: Vec<String>,

    #[command(flatten)]
    select: SelectArgs,

    /// All objects of the kind
    #[arg(long)]
    all: bool,

    /// condition=TYPE[=STATUS], jsonpath=PATH=VALUE, create or delete
    #[arg(long = "for", value_name = "CONDITION")]
    condition: Condition,

    /// How long to wait for all of them: 30s, 5m, 1h
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
}

/// What is waited for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Condition {
    /// A condition in the status.
    Status { kind: String, status: String },
    /// A field's value, as text; the path is a JSON pointer.
    Field { pointer: String, value: String },
    /// That it is there.
    Create,
    /// That it is gone.
    Delete,
}

/// Waits for all objects.
pub async fn run(context: &Context, args: &WaitArgs, out: &mut impl Write) -> Result<(), CliError> {
    let targets = Targets::parse(&args.targets)?;
    let deadline = Instant::now() + args.timeout;
    let mut failures = Failures::default();
    let mut awaited = Vec::new();
    match (&targets, &args.condition) {
        (Targets::Named(named), Condition::Create) => {
            awaited.extend(named.iter().map(|(kind, name)| Awaited::named(context, *kind, name)));
        }
        (_, Condition::Create) => return Err(CliError::Usage("--for=create needs a name".to_owned())),
        (Targets::Named(named), Condition::Delete) => {
            for (kind, name) in named {
                match context
                    .client
                    .get_object(*kind, context.namespace_of(*kind), name)
                    .await
                {
                    Ok(object) => awaited.extend(Awaited::of(&object)),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        _ => {
            if matches!(targets, Targets::Kinds(_)) && !args.all && !args.select.selects() {
                return Err(CliError::Usage(
                    "name the objects, select them with -l, or say --all".to_owned(),
                ));
            }
            let found = objects::find(context, &targets, &args.select, &mut failures).await?;
            if found.objects.is_empty() && matches!(targets, Targets::Kinds(_)) && args.condition != Condition::Delete {
                return Err(CliError::Usage("no matching objects".to_owned()));
            }
            awaited.extend(found.objects.iter().filter_map(Awaited::of));
        }
    }
    for object in &awaited {
        if failures
            .keep(until(context, object, &args.condition, deadline).await)
            .is_some()
        {
            let title = object.title();
            writeln!(out, "{title} condition met").map_err(CliError::Output)?;
        }
    }
    failures.finish()
}

/// An object that is waited for.
#[derive(Clone, Debug)]
pub struct Awaited {
    kind: Kind,
    namespace: String,
    name: String,
    /// Another object of the same name is not this one; empty when any will do.
    uid: String,
}

impl Awaited {
    fn named(context: &Context, kind: Kind, name: &str) -> Self {
        let namespace = context.namespace_of(kind).to_owned();
        Self {
            kind,
            namespace,
            name: name.to_owned(),
            uid: String::new(),
        }
    }

    /// The object itself; `None` without kind or metadata.
    pub fn of(object: &Object) -> Option<Self> {
        let (kind, meta) = (object.kind()?, object.meta()?);
        Some(Self {
            kind,
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
        })
    }

    fn title(&self) -> String {
        format!("{}/{}", self.kind.singular(), self.name)
    }

    fn is(&self, object: &Object) -> bool {
        self.uid.is_empty() || object.meta().is_some_and(|meta| meta.uid == self.uid)
    }
}

/// Waits until an object is gone. `None`: for ever.
pub async fn until_gone(context: &Context, object: &Awaited, deadline: Option<Instant>) -> Result<(), CliError> {
    // Tokio's clock reaches some decades.
    let deadline = deadline.unwrap_or_else(|| Instant::now() + Duration::from_hours(365 * 24));
    until(context, object, &Condition::Delete, deadline).await
}

async fn until(context: &Context, object: &Awaited, condition: &Condition, deadline: Instant) -> Result<(), CliError> {
    let options =
        ListOptions::namespace(&object.namespace).fields(FieldSelector::equals("metadata.name", &object.name));
    let mut watcher = Watcher::new(context.client.clone(), object.kind, options);
    let wait = async {
        loop {
            let met = match watcher.next().await {
                Change::Replaced(objects) => condition.holds(objects.iter().find(|found| object.is(found))),
                Change::Applied(found) => condition.holds(Some(&found).filter(|found| object.is(found))),
                Change::Deleted(found) => object.is(&found) && condition.holds(None),
                Change::Bookmark => false,
                // Away for a while; the deadline bounds it.
                Change::Interrupted(error) => match error {
                    Some(error) if !error.is_unavailable() && !error.is_expired() => return Err(error.into()),
                    _ => false,
                },
            };
            if met {
                return Ok(());
            }
        }
    };
    let timed_out = || CliError::TimedOut(format!("{condition} on {}", object.title()));
    tokio::time::timeout_at(deadline, wait)
        .await
        .unwrap_or_else(|_| Err(timed_out()))
}

impl Condition {
    /// Whether it holds for the object, or for its absence.
    fn holds(&self, object: Option<&Object>) -> bool {
        match (self, object) {
            (Self::Delete, object) => object.is_none(),
            (Self::Create, object) => object.is_some(),
            (_, None) => false,
            (Self::Status { kind, status }, Some(object)) => {
                let json = manifest::to_json(object);
                let conditions = json.pointer("/status/conditions").and_then(Value::as_array).cloned();
                conditions.unwrap_or_default().iter().any(|condition| {
                    let is = |key: &str, wanted: &str| {
                        condition
                            .get(key)
                            .and_then(Value::as_str)
                            .is_some_and(|text| text.eq_ignore_ascii_case(wanted))
                    };
                    is("type", kind) && is("status", status)
                })
            }
            (Self::Field { pointer, value }, Some(object)) => match manifest::to_json(object).pointer(pointer) {
                Some(Value::String(text)) => text == value,
                Some(other) => &other.to_string() == value,
                None => false,
            },
        }
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(condition) = text.strip_prefix("condition=") {
            let (kind, status) = condition.split_once('=').unwrap_or((condition, "True"));
            return Ok(Self::Status {
                kind: kind.to_owned(),
                status: status.to_owned(),
            });
        }
        if let Some(field) = text.strip_prefix("jsonpath=") {
            let (path, value) = field
                .rsplit_once('=')
                .ok_or("jsonpath needs a value: jsonpath=PATH=VALUE")?;
            return Ok(Self::Field {
                pointer: pointer(path)?,
                value: value.trim_matches('"').to_owned(),
            });
        }
        match text {
            "create" => Ok(Self::Create),
            "delete" => Ok(Self::Delete),
            _ => Err("must be condition=TYPE[=STATUS], jsonpath=PATH=VALUE, create or delete".to_owned()),
        }
    }
}

/// `{.status.conditions[0].type}` as a JSON pointer (RFC 6901); only fields and indexes.
fn pointer(path: &str) -> Result<String, String> {
    let path = path
        .trim_start_matches('{')
        .trim_end_matches('}')
        .replace('[', ".")
        .replace(']', "");
    let steps: Vec<&str> = path
        .trim_start_matches('$')
        .trim_start_matches('.')
        .split('.')
        .collect();
    if steps
        .iter()
        .any(|step| step.is_empty() || !step.chars().all(|c| c.is_ascii_alphanumeric() || "-_/".contains(c)))
    {
        return Err(format!("\"{path}\" is not a path of fields and indexes"));
    }
    let mut pointer = String::new();
    for step in steps {
        pointer.push('/');
        pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
    }
    Ok(pointer)
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status { kind, status } => write!(f, "condition {kind}={status}"),
            Self::Field { pointer, value } => {
                write!(f, "{}={value}", pointer.trim_start_matches('/').replace('/', "."))
            }
            Self::Create => f.write_str("creation"),
            Self::Delete => f.write_str("deletion"),
        }
    }
}

/// Reads "30s", "5m", "1h", "250ms" or seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err("must be a number with ms, s, m or h".to_owned()),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "must begin with a number, such as 30s".to_owned())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use causeway_proto::{
        Resource as _,
        v1::{Condition as StatusCondition, Pod, PodStatus},
    };

    use super::*;

    fn pod(ready: &str) -> Object {
        let condition = StatusCondition {
            r#type: "Ready".into(),
            status: ready.into(),
            ..Default::default()
        };
        let status = PodStatus {
            phase: "Running".into(),
            conditions: vec![condition],
            ..Default::default()
        };
        Pod {
            status: Some(status),
            ..Default::default()
        }
        .into_object()
    }

    #[test]
    fn conditions_hold_when_they_should() {
        let holds = |text: &str, object: Option<&Object>| text.parse::<Condition>().unwrap().holds(object);
        let (ready, not) = (pod("True"), pod("False"));
        assert!(holds("condition=Ready", Some(&ready)));
        assert!(holds("condition=ready=false", Some(&not)));
        assert!(!holds("condition=Ready", Some(&not)));
        assert!(!holds("condition=Ready", None));
        assert!(holds("jsonpath={.status.phase}=Running", Some(&ready)));
        assert!(holds("jsonpath=.status.conditions[0].status=False", Some(&not)));
        assert!(!holds("jsonpath={.status.podIP}=x", Some(&ready)));
        assert!(holds("delete", None) && !holds("delete", Some(&ready)));
        assert!(holds("create", Some(&ready)) && !holds("create", None));
    }

    #[test]
    fn what_cannot_be_waited_for_is_refused() {
        assert!("ready".parse::<Condition>().is_err());
        assert!("jsonpath={.status.phase}".parse::<Condition>().is_err());
        assert!("jsonpath={.items[*]}=a".parse::<Condition>().is_err());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(parse_duration("5 minutes").is_err());
        assert!(parse_duration("-1s").is_err());
    }
}
