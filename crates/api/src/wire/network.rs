//! Networks: until networking is built, the three predefined ones.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::context::PredefinedNetwork;
use crate::text;

/// A network, as list and inspect answer it.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Network {
    #[serde(rename = "Name")]
    pub name: &'static str,
    #[serde(rename = "Id")]
    pub id: String,
    #[serde(rename = "Created")]
    pub created: String,
    #[serde(rename = "Scope")]
    pub scope: &'static str,
    #[serde(rename = "Driver")]
    pub driver: &'static str,
    #[serde(rename = "EnableIPv4")]
    pub enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    pub ipam: Ipam,
    #[serde(rename = "Internal")]
    pub internal: bool,
    #[serde(rename = "Attachable")]
    pub attachable: bool,
    #[serde(rename = "Ingress")]
    pub ingress: bool,
    #[serde(rename = "ConfigFrom")]
    pub config_from: ConfigFrom,
    #[serde(rename = "ConfigOnly")]
    pub config_only: bool,
    #[serde(rename = "Containers")]
    pub containers: BTreeMap<String, serde_json::Value>,
    #[serde(rename = "Options")]
    pub options: BTreeMap<&'static str, &'static str>,
    #[serde(rename = "Labels")]
    pub labels: BTreeMap<&'static str, &'static str>,
}

/// `IPAM`
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Ipam {
    pub driver: &'static str,
    pub options: Option<BTreeMap<String, String>>,
    pub config: Option<Vec<serde_json::Value>>,
}

/// `ConfigFrom`
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct ConfigFrom {
    pub network: &'static str,
}

/// The document of a predefined network. The bridge has no subnet to show, because there is no bridge yet.
pub fn predefined(network: &PredefinedNetwork) -> Network {
    Network {
        name: network.name,
        id: network.id.clone(),
        created: text::rfc3339(network.created_unix_ns),
        scope: "local",
        driver: network.driver,
        enable_ipv4: true,
        enable_ipv6: false,
        ipam: Ipam {
            driver: "default",
            options: None,
            config: None,
        },
        internal: false,
        attachable: false,
        ingress: false,
        config_from: ConfigFrom::default(),
        config_only: false,
        containers: BTreeMap::new(),
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
    }
}
