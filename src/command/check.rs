//! CHECK: compare what is asked for with the store, and the store with the
//! kernel, element by element. Reads only, without the lock.

use super::{Call, Error, Node, attachment, options, requests};
use crate::{
    cni::Config,
    lease::{Forwarding, Lease},
    nat::{Table, elements},
    request::Request,
};

pub(super) fn check(call: &Call, config: &Config, node: &mut Node) -> Result<(), Error> {
    call.environment.require_netns()?;
    let attachment = attachment(call, &config.network)?;
    let mut options = options(&config.settings()?)?;
    let result = config.prev_result()?;
    let requests = requests(config)?;
    let leases = node.store.read()?;
    options.lineage = leases.lineage();
    let held = leases.forwarding(&attachment)?;
    let mut differences = unserved(&requests, held.as_ref());
    if let Some(forwarding) = &held {
        if forwarding.container != result.container_addresses(&attachment.interface) {
            differences.push("the container's addresses are not those of ADD".to_owned());
        }
        let table = Table::new(&config.network, &options);
        let found = node.nat.check(&table, &elements(forwarding))?;
        differences.extend(found.iter().map(ToString::to_string));
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::Different { attachment: Box::new(attachment), differences })
}

/// Requests that no lease answers.
fn unserved(requests: &[Request], held: Option<&Forwarding>) -> Vec<String> {
    let mut leases: Vec<&Lease> = held.map(|held| held.leases.iter().collect()).unwrap_or_default();
    let mut missing = Vec::new();
    for request in requests {
        let answers = |lease: &&Lease| {
            lease.container_port == request.container_port
                && lease.group.is_none() == request.host_port.is_some()
                && lease.host == request.on(request.host_port.unwrap_or(lease.host.port))
        };
        match leases.iter().position(answers) {
            Some(at) => _ = leases.swap_remove(at),
            None => missing.push(format!(
                "no lease for container port {}/{}",
                request.container_port, request.protocol
            )),
        }
    }
    missing
}
