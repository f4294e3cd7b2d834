//! `causeway api-resources`.

use std::io::Write;

use causeway_proto::Kind;
use clap::Args;

use crate::{error::CliError, table::Table};

/// Options of `causeway api-resources`.
#[derive(Debug, Args)]
pub struct ApiResourcesArgs {
    /// Leave out the line of column names
    #[arg(long)]
    no_headers: bool,
}

/// Lists the kinds of objects.
pub fn run(args: &ApiResourcesArgs, out: &mut impl Write) -> Result<(), CliError> {
    out.write_all(table().render(!args.no_headers).as_bytes())
        .map_err(CliError::Output)
}

fn table() -> Table {
    let mut table = Table::new(["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]);
    for kind in Kind::ALL {
        table.push(vec![
            kind.plural().to_owned(),
            kind.short_names().join(","),
            kind.api_version().to_owned(),
            kind.namespaced().to_string(),
            kind.name().to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_kind_is_listed() {
        insta::assert_snapshot!(super::table().render(true), @r"
        NAME                     SHORTNAMES   APIVERSION               NAMESPACED   KIND
        namespaces               ns           v1                       false        Namespace
        nodes                    no           v1                       false        Node
        leases                                coordination.k8s.io/v1   true         Lease
        pods                     po           v1                       true         Pod
        replicationcontrollers   rc           v1                       true         ReplicationController
        services                 svc          v1                       true         Service
        endpoints                ep           v1                       true         Endpoints
        events                   ev           v1                       true         Event
        ");
    }
}
