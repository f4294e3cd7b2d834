//! What kube-proxy would write: pure text, from services.
//!
//! Written after the expectations in kube-proxy's own tests (`pkg/proxy/{iptables,nftables}` of Kubernetes 1.33): chain
//! names, order of rules and matches, and what a change of one endpoint rewrites are the same; the code is not.

pub mod iptables;
pub mod ipvs;
mod names;
pub mod nftables;
