//! Amounts of resources: what pods ask for and nodes have.

use std::collections::BTreeMap;

use causeway_proto::{
    quantity::Amount,
    v1::{Container, Pod, Quantity},
};

/// Amounts by resource name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources(BTreeMap<String, Amount>);

impl Resources {
    /// From an object's amounts. One that cannot be read counts as nothing: admission lets none in.
    pub fn of(amounts: &BTreeMap<String, Quantity>) -> Self {
        Self(
            amounts
                .iter()
                .filter_map(|(name, amount)| Some((name.clone(), amount.amount().ok()?)))
                .collect(),
        )
    }

    /// What has to be free for a pod: the sum of its containers, or an init container if that asks for more, as these run before.
    pub fn requested_by(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let mut requested = Self::default();
        for container in &spec.containers {
            requested.add(&requests(container));
        }
        for container in &spec.init_containers {
            for (name, amount) in requests(container).0 {
                let present = requested.0.entry(name).or_insert(Amount::ZERO);
                *present = amount.max(*present);
            }
        }
        requested
    }

    /// The amount of one resource.
    pub fn get(&self, name: &str) -> Option<Amount> {
        self.0.get(name).copied()
    }

    /// All amounts, in order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Amount)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    /// Adds to each.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let present = self.0.entry(name.clone()).or_insert(Amount::ZERO);
            *present = *present + *amount;
        }
    }
}

/// A limit without a request is a request too.
fn requests(container: &Container) -> Resources {
    let Some(resources) = &container.resources else {
        return Resources::default();
    };
    let mut amounts = Resources::of(&resources.limits);
    amounts.0.extend(Resources::of(&resources.requests).0);
    amounts
}
