//! Which objects a list or a watch shows.

use causeway_proto::{
    Kind,
    selector::{FieldSelector, LabelSelector, SelectorError},
    v1::Object,
};

/// Namespace, labels and fields; all of them must match.
#[derive(Clone, Debug)]
pub struct Filter {
    namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Filter {
    /// Reads selectors for objects of a kind. Empty texts match everything.
    pub fn parse(
        kind: Kind,
        namespace: &str,
        labels: &str,
        fields: &str,
    ) -> Result<Self, (&'static str, SelectorError)> {
        let namespace = if kind.namespaced() {
            namespace.to_owned()
        } else {
            String::new()
        };
        let labels = LabelSelector::parse(labels).map_err(|error| ("label_selector", error))?;
        let fields = FieldSelector::parse(kind, fields).map_err(|error| ("field_selector", error))?;
        Ok(Self {
            namespace,
            labels,
            fields,
        })
    }

    /// True when the object is to be shown.
    pub fn matches(&self, object: &Object) -> bool {
        object.meta().is_some_and(|meta| {
            (self.namespace.is_empty() || self.namespace == meta.namespace) && self.labels.matches(&meta.labels)
        }) && self.fields.matches(object)
    }
}
