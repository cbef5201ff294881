//! CHECK: compare what is asked for with the store, and the store with the
//! kernel, element by element. Reads only, and waits for nobody.

use super::{Call, Error, Node, asked, attachment, options};
use crate::{
    cni::Config,
    nat::{Table, elements},
    request::unserved,
    store::View,
};

pub(super) fn check(call: &Call, config: &Config, node: &mut Node) -> Result<(), Error> {
    call.environment.require_netns()?;
    let attachment = attachment(call, &config.network)?;
    let settings = config.settings()?;
    let mut options = options(&settings)?;
    let result = config.prev_result()?;
    let requests = asked(call, config, &settings)?.requests;
    let read = |leases: &View| Ok((leases.lineage(), leases.forwarding(&attachment)?));
    let (lineage, held) = node.store.look(read).flatten()?;
    options.lineage = lineage;
    let served = held.as_ref().map_or(&[][..], |held| &held.leases);
    let mut differences = unserved(&requests, served);
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
