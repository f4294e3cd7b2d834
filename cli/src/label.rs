//! `causeway label` and `causeway annotate`.

use std::{collections::BTreeMap, io::Write};

use causeway_proto::{
    selector::{check_label_key, check_label_value},
    v1::{Object, ObjectMeta, Preconditions},
};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::{
    context::Context,
    error::{CliError, Failures},
    objects::{self, SelectArgs},
    target::Targets,
};

/// How often a change is tried again when somebody else changed the object meanwhile.
const ATTEMPTS: usize = 5;

/// Options of `causeway label`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    causeway label pod web-x7k2p env-          # quarantine: leaves its service and its controller, keeps running\n  \
    causeway label pod web-x7k2p tier=a --overwrite\n  \
    causeway label nodes -l zone=a disk=ssd")]
pub struct LabelArgs {
    #[command(flatten)]
    common: MapArgs,
}

/// Options of `causeway annotate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    causeway annotate pod web-x7k2p note='being looked at'\n  \
    causeway annotate pod web-x7k2p note-")]
pub struct AnnotateArgs {
    #[command(flatten)]
    common: MapArgs,
}

#[derive(Debug, Args)]
struct MapArgs {
    /// KIND NAME… or KIND/NAME…, then KEY=VALUE to set and KEY- to remove
    #[arg(required = true, value_name = "KIND NAME KEY=VALUE")]
    words: Vec<String>,

    #[command(flatten)]
    select: SelectArgs,

    /// All objects of the kind
    #[arg(long)]
    all: bool,

    /// Replace values that are there
    #[arg(long)]
    overwrite: bool,
}

/// Which of the two maps of an object is changed, and how.
#[derive(Debug)]
pub struct MapChange {
    which: Which,
    args: MapArgs,
}

impl From<LabelArgs> for MapChange {
    fn from(args: LabelArgs) -> Self {
        Self {
            which: Which::Labels,
            args: args.common,
        }
    }
}

impl From<AnnotateArgs> for MapChange {
    fn from(args: AnnotateArgs) -> Self {
        Self {
            which: Which::Annotations,
            args: args.common,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Which {
    Labels,
    Annotations,
}

impl Which {
    const fn field(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Annotations => "annotations",
        }
    }

    const fn of(self, meta: &ObjectMeta) -> &BTreeMap<String, String> {
        match self {
            Self::Labels => &meta.labels,
            Self::Annotations => &meta.annotations,
        }
    }

    /// What was done: "labeled", "unlabeled", "not labeled".
    const fn words(self) -> [&'static str; 3] {
        match self {
            Self::Labels => ["labeled", "unlabeled", "not labeled"],
            Self::Annotations => ["annotated", "unannotated", "not annotated"],
        }
    }
}

/// Values to set; `None` to remove.
type Edits = BTreeMap<String, Option<String>>;

/// Changes labels or annotations.
pub async fn run(context: &Context, change: &MapChange, out: &mut impl Write) -> Result<(), CliError> {
    let MapChange { which, args } = change;
    let (targets, edits) = parse(*which, &args.words)?;
    if matches!(targets, Targets::Kinds(_)) && !args.all && !args.select.selects() {
        return Err(CliError::Usage(
            "name the objects, select them with -l, or say --all".to_owned(),
        ));
    }
    let mut failures = Failures::default();
    let found = objects::find(context, &targets, &args.select, &mut failures).await?;
    if found.objects.is_empty() && matches!(targets, Targets::Kinds(_)) {
        objects::say_nothing_found(context, &targets.kinds(), args.select.all_namespaces);
    }
    for object in found.objects {
        let title = object.title();
        if let Some(word) = failures.keep(edit(context, *which, object, &edits, args.overwrite).await) {
            writeln!(out, "{title} {word}").map_err(CliError::Output)?;
        }
    }
    failures.finish()
}

async fn edit(
    context: &Context,
    which: Which,
    mut object: Object,
    edits: &Edits,
    overwrite: bool,
) -> Result<&'static str, CliError> {
    let mut attempt = 1;
    loop {
        let (Some(kind), Some(meta)) = (object.kind(), object.meta()) else {
            return Ok(which.words()[2]);
        };
        let planned = plan(which.of(meta), edits, overwrite);
        let (patch, done) = planned.map_err(|problem| CliError::Usage(format!("{}: {problem}", object.title())))?;
        if patch.is_empty() {
            return Ok(which.words()[2]);
        }
        let patch = json!({"metadata": {which.field(): patch}});
        let unchanged = Preconditions {
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
        };
        let client = &context.client;
        match client
            .patch_merge_object(kind, &meta.namespace, &meta.name, &patch, Some(unchanged))
            .await
        {
            Ok(_) => return Ok(which.words()[usize::from(done == Done::OnlyRemoved)]),
            Err(error) if error.is_conflict() && attempt < ATTEMPTS => {
                attempt += 1;
                object = client.get_object(kind, &meta.namespace, &meta.name).await?;
            }
            Err(error) => {
                return Err(CliError::Object {
                    object: object.title(),
                    error,
                });
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Done {
    Set,
    OnlyRemoved,
}

/// The merge patch that makes the edits; empty when there is nothing to do.
fn plan(
    present: &BTreeMap<String, String>,
    edits: &Edits,
    overwrite: bool,
) -> Result<(Map<String, Value>, Done), String> {
    let mut patch = Map::new();
    let mut done = Done::OnlyRemoved;
    for (key, value) in edits {
        match (present.get(key), value) {
            (None, None) => {}
            (Some(old), Some(new)) if old == new => {}
            (Some(old), Some(_)) if !overwrite => {
                return Err(format!(
                    "\"{key}\" already has the value \"{old}\"; --overwrite replaces it"
                ));
            }
            (Some(_), None) => {
                patch.insert(key.clone(), Value::Null);
            }
            (_, Some(new)) => {
                patch.insert(key.clone(), new.clone().into());
                done = Done::Set;
            }
        }
    }
    Ok((patch, done))
}

/// Splits the words into objects and edits.
fn parse(which: Which, words: &[String]) -> Result<(Targets, Edits), CliError> {
    let is_edit = |word: &&String| word.contains('=') || word.ends_with('-');
    let usage = |problem: String| CliError::Usage(problem);
    let (edit_words, target_words): (Vec<&String>, Vec<&String>) = words.iter().partition(is_edit);
    let mut edits = Edits::new();
    for word in edit_words {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (word.trim_end_matches('-'), None),
        };
        check_label_key(key).map_err(usage)?;
        if let (Which::Labels, Some(value)) = (which, &value) {
            check_label_value(value).map_err(usage)?;
        }
        if edits.insert(key.to_owned(), value).is_some() {
            return Err(usage(format!("\"{key}\" is given twice")));
        }
    }
    if edits.is_empty() {
        return Err(usage("say KEY=VALUE to set or KEY- to remove".to_owned()));
    }
    let target_words: Vec<String> = target_words.into_iter().cloned().collect();
    Ok((Targets::parse(&target_words)?, edits))
}

#[cfg(test)]
mod tests {
    use causeway_proto::Kind;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn objects_and_edits_are_told_apart() {
        let (targets, edits) = parse(Which::Labels, &words("pod web db env- tier=a empty=")).unwrap();
        assert_eq!(
            targets,
            Targets::Named(vec![(Kind::Pod, "web".into()), (Kind::Pod, "db".into())])
        );
        let expected = [("empty", Some("")), ("env", None), ("tier", Some("a"))];
        assert_eq!(
            edits,
            expected
                .map(|(key, value)| (key.to_owned(), value.map(str::to_owned)))
                .into()
        );
        let (_, edits) = parse(Which::Annotations, &words("pod/web note=a=b,c")).unwrap();
        assert_eq!(edits["note"].as_deref(), Some("a=b,c"));
    }

    #[test]
    fn bad_edits_are_refused() {
        let error = |which, text| parse(which, &words(text)).unwrap_err().to_string();
        assert!(error(Which::Labels, "pod web tier=a b=c/d").contains("'/' is not allowed"));
        assert!(error(Which::Labels, "pod web -x=1").contains("must begin and end"));
        assert!(error(Which::Labels, "pod web").contains("KEY=VALUE"));
        assert!(error(Which::Annotations, "pod web a=1 a-").contains("given twice"));
    }

    #[test]
    fn a_plan_changes_no_more_than_it_must() {
        let present = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
        let edits = |text| parse(Which::Labels, &words(&format!("pod web {text}"))).unwrap().1;
        let plan =
            |text, overwrite| plan(&present, &edits(text), overwrite).map(|(patch, done)| (Value::from(patch), done));
        assert_eq!(plan("env-", false), Ok((json!({"env": null}), Done::OnlyRemoved)));
        assert_eq!(plan("gone- env=prod", false), Ok((json!({}), Done::OnlyRemoved)));
        assert_eq!(plan("a=b env-", false), Ok((json!({"a": "b", "env": null}), Done::Set)));
        assert_eq!(plan("env=dev", true), Ok((json!({"env": "dev"}), Done::Set)));
        assert_eq!(
            plan("env=dev", false),
            Err("\"env\" already has the value \"prod\"; --overwrite replaces it".to_owned())
        );
    }
}
