//! STATUS: whether ADD could work. A full pool is not a reason to say no: the
//! runtime would take the whole node out of service.

use super::{Error, Node, options};
use crate::{cni::Config, nat::Table};

pub(super) fn status(config: &Config, node: &mut Node) -> Result<(), Error> {
    probe(config, node).map_err(|error| Error::Unavailable(Box::new(error)))
}

fn probe(config: &Config, node: &mut Node) -> Result<(), Error> {
    let settings = config.settings()?;
    let options = options(&settings)?;
    // Beside the generations: a copy there also finds a full or read-only disk.
    if node.store.exists()? {
        node.store.on_disk().read()?;
    } else {
        node.lock(settings.lock_timeout)?;
    }
    Ok(node.nat.probe(&Table::new(&config.network, &options))?)
}
