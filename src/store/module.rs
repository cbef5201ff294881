//! What modules hold: services of the host, whose ports outlive the boot. So every
//! change is durable.

use crate::lease::{HostPort, ModuleId, ModuleLease, Port, Protocol};

use super::{
    Draft, StoreError, draft::Moment, port_index::PortIndex, record, tree::Tree, view::View,
};

impl View {
    /// All that modules hold: by module, protocol and port.
    pub fn module_leases(&self) -> Result<Vec<ModuleLease>, StoreError> {
        self.module_leases_below(Vec::new())
    }

    /// What a module holds, by protocol and port.
    pub fn of_module(&self, module: &ModuleId) -> Result<Vec<ModuleLease>, StoreError> {
        self.module_leases_below(record::module_prefix(module))
    }

    /// What a module holds from this port on, the lowest of a block.
    pub fn module_lease(
        &self,
        module: &ModuleId,
        protocol: Protocol,
        first: Port,
    ) -> Result<Option<ModuleLease>, StoreError> {
        let key = record::module_key(module, protocol, first);
        let value = self.get(Tree::Module, &key)?;
        value.map(|value| record::read_module_lease(&key, &value)).transpose()
    }

    fn module_leases_below(&self, prefix: Vec<u8>) -> Result<Vec<ModuleLease>, StoreError> {
        self.scan(Tree::Module, prefix)
            .map(|entry| entry.and_then(|(key, value)| record::read_module_lease(&key, &value)))
            .collect()
    }
}

impl Draft<'_> {
    /// Puts down a block that a module holds, in place of the one that begins with
    /// the same port. A port that anybody else holds, or the module under another
    /// block, is refused (`Conflict`), and so is one that a claim is about
    /// (`Claimed`). Makes the commit durable, unless nothing changes.
    pub fn insert_module(&mut self, lease: &ModuleLease) -> Result<(), StoreError> {
        let ModuleLease { module, protocol, port, .. } = lease;
        let before = self.module_lease(module, *protocol, *port)?;
        if before.as_ref() == Some(lease) {
            return Ok(());
        }
        let own: Vec<HostPort> = before.iter().flat_map(ModuleLease::ports).collect();
        for wanted in lease.ports().filter(|wanted| !own.contains(wanted)) {
            let holders = self.holders(wanted.protocol, wanted.port)?;
            if let Some((port, holder)) = holders.into_iter().next() {
                return Err(StoreError::Conflict { port, holder });
            }
            let claims = self.claim_keys_on(wanted.protocol, wanted.port)?;
            if let Some((port, claim)) = claims.into_iter().next() {
                return Err(StoreError::Claimed { port, claim });
            }
        }
        self.take_out_module(before.as_ref())?;
        let database = self.database_mut();
        let key = record::module_key(module, *protocol, *port);
        database.put(Tree::Module, &key, &record::module_lease(lease))?;
        let value = record::module_of_port(module);
        for port in lease.ports() {
            database.put_port(PortIndex::Modules, &port, &value)?;
            database.delete_release(&port)?;
        }
        self.make_durable();
        Ok(())
    }

    /// Gives back the block that a module holds from this port on, and returns it:
    /// its ports begin to rest. Makes the commit durable if there was one.
    pub fn remove_module(
        &mut self,
        module: &ModuleId,
        protocol: Protocol,
        first: Port,
        moment: Moment,
    ) -> Result<Option<ModuleLease>, StoreError> {
        let lease = self.module_lease(module, protocol, first)?;
        self.take_out_module(lease.as_ref())?;
        if let Some(lease) = &lease {
            for port in lease.ports() {
                let at = moment.since_boot;
                self.database_mut().put_release(&port, lease.rest, at, true)?;
            }
            self.make_durable();
        }
        Ok(lease)
    }

    fn take_out_module(&mut self, lease: Option<&ModuleLease>) -> Result<(), StoreError> {
        let Some(lease) = lease else { return Ok(()) };
        let database = self.database_mut();
        for port in lease.ports() {
            database.delete_port(PortIndex::Modules, &port)?;
        }
        database
            .delete(Tree::Module, &record::module_key(&lease.module, lease.protocol, lease.port))
    }
}
