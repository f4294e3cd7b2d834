//! Rules of objects: what is filled in, and what is refused. Pure; one module per kind.
//!
//! Every violation is reported, not the first, with Kubernetes' field paths and words. Rules that need other objects (does
//! the namespace exist, is the VIP free) are the registry's.

use causeway_proto::{
    Resource,
    v1::{self, Object},
};
use tonic_types::FieldViolation;

use field::Violations;

use crate::{cidr::Cidr, port_range::PortRange};

pub mod container;
pub mod endpoints;
pub mod event;
pub mod field;
pub mod lease;
pub mod meta;
pub mod names;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod probe;
pub mod replication_controller;
pub mod service;
mod service_families;
mod service_reach;

pub use service_reach::wants_node_ports;

/// The owner stays until what it owns is gone.
pub const FINALIZER_FOREGROUND: &str = "foregroundDeletion";
/// The owner stays until what it owns has been released.
pub const FINALIZER_ORPHAN: &str = "orphan";

/// What of the cluster's configuration the rules depend on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where VIPs come from: one range for each family, the preferred one first.
    pub service_ranges: Vec<Cidr>,
    /// Where node ports come from.
    pub node_ports: PortRange,
}

impl Settings {
    /// A cluster of one family.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            service_ranges: vec!["10.96.0.0/16".parse().expect("a range")],
            node_ports: PortRange::NODE_PORTS,
        }
    }
}

/// The rules of one kind.
trait Rules: Resource {
    /// Syntax of its names.
    const NAME: meta::NameRule = names::dns1123_subdomain;

    /// Fills in a new object and resets what its creator may not say.
    fn prepare_create(&mut self);

    /// Fills in a changed object from itself and from what is stored.
    fn prepare_update(&mut self, old: &Self);

    /// Checks a new or changed object.
    fn validate(&self, v: &mut Violations);

    /// Checks what may not change.
    fn validate_update(&self, _old: &Self, _v: &mut Violations) {}

    /// Decides and checks what depends on the cluster's configuration.
    fn resolve(&mut self, _old: Option<&Self>, _settings: &Settings, _v: &mut Violations) {}
}

impl Rules for v1::Pod {
    fn prepare_create(&mut self) {
        pod::prepare_create(self);
    }
    fn prepare_update(&mut self, _old: &Self) {
        pod::default_spec(self.spec.get_or_insert_default());
    }
    fn validate(&self, v: &mut Violations) {
        pod::validate(self, v);
    }
    fn validate_update(&self, old: &Self, v: &mut Violations) {
        pod::validate_update(self, old, v);
    }
}

impl Rules for v1::ReplicationController {
    fn prepare_create(&mut self) {
        replication_controller::prepare_create(self);
    }
    fn prepare_update(&mut self, _old: &Self) {
        replication_controller::default(self);
    }
    fn validate(&self, v: &mut Violations) {
        replication_controller::validate(self, v);
    }
}

impl Rules for v1::Service {
    const NAME: meta::NameRule = names::dns1035_label;

    fn prepare_create(&mut self) {
        service::prepare_create(self);
    }
    fn prepare_update(&mut self, old: &Self) {
        service::prepare_update(self, old);
    }
    fn validate(&self, v: &mut Violations) {
        service::validate(self, v);
    }
    fn validate_update(&self, old: &Self, v: &mut Violations) {
        service::validate_update(self, old, v);
    }
    fn resolve(&mut self, old: Option<&Self>, settings: &Settings, v: &mut Violations) {
        service::resolve(self, old, settings, v);
    }
}

impl Rules for v1::Endpoints {
    fn prepare_create(&mut self) {
        endpoints::default(self);
    }
    fn prepare_update(&mut self, _old: &Self) {
        endpoints::default(self);
    }
    fn validate(&self, v: &mut Violations) {
        endpoints::validate(self, v);
    }
}

impl Rules for v1::Namespace {
    const NAME: meta::NameRule = names::dns1123_label;

    fn prepare_create(&mut self) {
        namespace::prepare_create(self);
    }
    fn prepare_update(&mut self, old: &Self) {
        namespace::prepare_update(self, old);
    }
    fn validate(&self, v: &mut Violations) {
        namespace::validate(self, v);
    }
}

impl Rules for v1::Node {
    fn prepare_create(&mut self) {
        node::default(self);
    }
    fn prepare_update(&mut self, old: &Self) {
        node::prepare_update(self, old);
    }
    fn validate(&self, v: &mut Violations) {
        node::validate(self, v);
    }
    fn validate_update(&self, old: &Self, v: &mut Violations) {
        node::validate_update(self, old, v);
    }
}

impl Rules for v1::Lease {
    fn prepare_create(&mut self) {}
    fn prepare_update(&mut self, _old: &Self) {}
    fn validate(&self, v: &mut Violations) {
        lease::validate(self, v);
    }
}

impl Rules for v1::Event {
    fn prepare_create(&mut self) {
        event::default(self);
    }
    fn prepare_update(&mut self, _old: &Self) {
        event::default(self);
    }
    fn validate(&self, v: &mut Violations) {
        event::validate(self, v);
    }
}

/// Fills in and checks a new object. Its name must have been generated already.
pub fn create(object: &mut Object, settings: &Settings) -> Result<(), Vec<FieldViolation>> {
    fn run<T: Rules>(object: &mut T, settings: &Settings, v: &mut Violations) {
        object.prepare_create();
        meta::validate(object.meta(), T::KIND.namespaced(), T::NAME, v);
        object.validate(v);
        object.resolve(None, settings, v);
    }
    let mut v = Violations::default();
    dispatch!(object, inner => run(inner, settings, &mut v));
    finish(v)
}

/// Fills in and checks a changed object against the stored one, which is of the same kind.
pub fn update(object: &mut Object, old: &Object, settings: &Settings) -> Result<(), Vec<FieldViolation>> {
    fn run<T: Rules>(object: &mut T, old: &Object, settings: &Settings, v: &mut Violations) {
        let Some(old) = T::from_object_ref(old) else { return };
        object.prepare_update(old);
        meta::validate(object.meta(), T::KIND.namespaced(), T::NAME, v);
        meta::validate_update(object.meta(), old.meta(), v);
        object.validate(v);
        object.validate_update(old, v);
        object.resolve(Some(old), settings, v);
    }
    let mut v = Violations::default();
    dispatch!(object, inner => run(inner, old, settings, &mut v));
    finish(v)
}

fn finish(v: Violations) -> Result<(), Vec<FieldViolation>> {
    let violations = v.into_vec();
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}

/// Runs a generic function on the message inside an object.
macro_rules! dispatch {
    ($object:expr, $inner:ident => $run:expr) => {
        match &mut $object.kind {
            Some(v1::object::Kind::Namespace($inner)) => $run,
            Some(v1::object::Kind::Node($inner)) => $run,
            Some(v1::object::Kind::Lease($inner)) => $run,
            Some(v1::object::Kind::Pod($inner)) => $run,
            Some(v1::object::Kind::ReplicationController($inner)) => $run,
            Some(v1::object::Kind::Service($inner)) => $run,
            Some(v1::object::Kind::Endpoints($inner)) => $run,
            Some(v1::object::Kind::Event($inner)) => $run,
            None => {}
        }
    };
}
use dispatch;
