//! Finding the objects that a command means.

use causeway_proto::{
    Kind,
    client::ListOptions,
    selector::{FieldSelector, LabelSelector},
    v1::Object,
};
use clap::Args;

use crate::{
    context::Context,
    error::{CliError, Failures},
    target::Targets,
};

/// Options that narrow a list.
#[derive(Clone, Debug, Default, Args)]
pub struct SelectArgs {
    /// Label selector, such as "app=web,tier in (a,b),!canary"
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,

    /// Field selector, such as "spec.nodeName=node-1,status.phase!=Running"
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,

    /// Look in all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

impl SelectArgs {
    /// The list options for a kind. The selectors are checked here, so that an error says where it is.
    pub fn options(&self, context: &Context, kind: Kind) -> Result<ListOptions, CliError> {
        let usage = |error: causeway_proto::selector::SelectorError| CliError::Usage(error.to_string());
        let labels = LabelSelector::parse(self.selector.as_deref().unwrap_or_default()).map_err(usage)?;
        let fields = FieldSelector::parse(kind, self.field_selector.as_deref().unwrap_or_default()).map_err(usage)?;
        let namespace = if self.all_namespaces {
            ""
        } else {
            context.namespace_of(kind)
        };
        Ok(ListOptions::namespace(namespace).labels(labels).fields(fields))
    }

    /// True when anything narrows the list.
    pub const fn selects(&self) -> bool {
        self.selector.is_some() || self.field_selector.is_some()
    }
}

/// Objects and the revision they were read at, where it was one.
#[derive(Debug, Default)]
pub struct Found {
    /// The objects, in the order asked for.
    pub objects: Vec<Object>,
    /// The revision, when there was one list.
    pub resource_version: String,
}

/// Reads the objects that targets and selectors mean. Errors of single objects are counted and do not stop the others.
pub async fn find(
    context: &Context,
    targets: &Targets,
    select: &SelectArgs,
    failures: &mut Failures,
) -> Result<Found, CliError> {
    match targets {
        Targets::Kinds(kinds) => {
            let mut found = Found::default();
            for kind in kinds {
                let list = context
                    .client
                    .list_objects(*kind, &select.options(context, *kind)?)
                    .await?;
                found.objects.extend(list.items);
                if kinds.len() == 1 {
                    found.resource_version = list.resource_version;
                }
            }
            Ok(found)
        }
        Targets::Named(named) => {
            if select.selects() {
                return Err(CliError::Usage("name objects or select them, not both".to_owned()));
            }
            if select.all_namespaces {
                return Err(CliError::Usage(
                    "a name needs a namespace: --all-namespaces does not go with names".to_owned(),
                ));
            }
            let mut found = Found::default();
            for (kind, name) in named {
                let answer = context
                    .client
                    .get_object(*kind, context.namespace_of(*kind), name)
                    .await;
                match answer {
                    // Nobody will answer for the others either.
                    Err(error) if error.is_unavailable() => return Err(error.into()),
                    answer => found.objects.extend(failures.keep(answer.map_err(CliError::from))),
                }
            }
            Ok(found)
        }
    }
}

/// "kind/name" lines.
pub fn names<'a>(objects: impl IntoIterator<Item = &'a Object>) -> String {
    let mut text = String::new();
    for object in objects {
        text.push_str(&object.title());
        text.push('\n');
    }
    text
}

/// Says on standard error that there is nothing.
pub fn say_nothing_found(context: &Context, kinds: &[Kind], all_namespaces: bool) {
    if !all_namespaces && kinds.iter().any(|kind| kind.namespaced()) {
        eprintln!("No resources found in {} namespace.", context.namespace());
    } else {
        eprintln!("No resources found");
    }
}
