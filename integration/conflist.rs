//! What a runtime does with a conflist: every plugin of the chain, in its order, with
//! the capabilities that it names (CNI SPEC, section 3).

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    chain::{Call, Container, Outcome},
    node::Node,
};

/// A conflist as a runtime has loaded it.
#[derive(Clone)]
pub struct Chain(Value);

impl Chain {
    /// One of `conflist/`.
    pub fn example(name: &str) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("conflist").join(name);
        Self::parse(&fs::read_to_string(file).unwrap())
    }

    pub fn parse(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap())
    }

    /// The chain with what is on disk in folders of the node.
    pub fn on(mut self, node: &Node) -> Self {
        for plugin in self.0["plugins"].as_array_mut().unwrap() {
            if plugin["type"] == "portclaim" {
                plugin["dataDir"] = node.data_dir().to_str().into();
                plugin["runDir"] = node.run_dir().to_str().into();
            } else if plugin["ipam"].is_object() {
                plugin["ipam"]["dataDir"] = node.folder("ipam").to_str().into();
            }
        }
        self
    }

    /// ADD; the result of the chain, or what came of the plugin that failed.
    pub fn try_add(
        &self,
        node: &Node,
        container: &Container,
        runtime: &Value,
    ) -> Result<Value, Outcome> {
        let mut result = Value::Null;
        for plugin in self.0["plugins"].as_array().unwrap() {
            let outcome = self.call("ADD", plugin, (node, container), &result, runtime);
            if !outcome.status.success() {
                return Err(outcome);
            }
            result = outcome.succeeded();
        }
        Ok(result)
    }

    /// ADD of a container that gets what it asks for; the result is remembered there.
    #[track_caller]
    pub fn add(&self, node: &Node, container: &mut Container, mappings: &Value) {
        let runtime = json!({ "portMappings": mappings });
        match self.try_add(node, container, &runtime) {
            Ok(result) => container.result = result,
            Err(outcome) => panic!("{outcome:?}"),
        }
    }

    /// DEL, in reverse, with the result of the ADD.
    #[track_caller]
    pub fn del(&self, node: &Node, container: &Container, mappings: &Value) {
        let runtime = json!({ "portMappings": mappings });
        for plugin in self.0["plugins"].as_array().unwrap().iter().rev() {
            let on = (node, container);
            self.call("DEL", plugin, on, &container.result, &runtime).succeeded();
        }
    }

    fn call(
        &self,
        command: &str,
        plugin: &Value,
        (node, container): (&Node, &Container),
        result: &Value,
        runtime: &Value,
    ) -> Outcome {
        let mut config = plugin.clone();
        for key in ["cniVersion", "name"] {
            config[key] = self.0[key].clone();
        }
        if !result.is_null() {
            config["prevResult"] = result.clone();
        }
        for (name, value) in runtime.as_object().unwrap() {
            if plugin["capabilities"][name] == true {
                config["runtimeConfig"][name] = value.clone();
            }
        }
        let kind = plugin["type"].as_str().unwrap();
        Call::of_type(kind, command, &config, container).run(node)
    }
}
