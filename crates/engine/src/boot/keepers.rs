//! Which keepers a shard has.
//!
//! A keeper of an earlier version keeps its containers until they end; new work goes to one of this daemon's version,
//! of the next generation, beside it.

use std::rc::Rc;

use gantry_launch::{AdoptedContainer, KeeperClient, KeeperName};

use crate::EngineError;
use crate::config::EngineConfig;
use crate::keeper::KeeperLink;
use crate::shard::ShardEngine;

/// Connects all keepers of the current shard, the one that launches first, and says what they have.
pub(super) async fn connect(
    shard: &Rc<ShardEngine>,
) -> Result<Vec<(Rc<KeeperLink>, AdoptedContainer)>, EngineError> {
    let config = &shard.shared.config;
    let mut adopted = Vec::new();
    let mut links = Vec::new();
    let mut newest = None;
    for name in names(config, shard.id) {
        let client = KeeperClient::connect(&config.exec_root, name).await?;
        let Some((client, containers)) = client else {
            continue;
        };
        if !client.is_current() {
            tracing::info!(keeper = %name, version = client.version(), containers = containers.len(),
                "a keeper of an earlier version keeps its containers");
        }
        let link = KeeperLink::new(name, client, config.pump).await?;
        adopted.extend(containers.into_iter().map(|a| (link.clone(), a)));
        if name.shard == shard.id {
            newest = Some(name);
        }
        links.push((name, link));
    }
    let current = |(name, link): &&(KeeperName, Rc<KeeperLink>)| {
        name.shard == shard.id && link.client().is_current()
    };
    let launching = match links.iter().rev().find(current) {
        Some((_, link)) => link.clone(),
        None => {
            let name = KeeperName {
                shard: shard.id,
                generation: newest.map_or(0, |n: KeeperName| n.generation + 1),
            };
            let (client, _nothing) =
                KeeperClient::connect_or_spawn(&config.exec_root, name, &config.keeper_exe).await?;
            KeeperLink::new(name, client, config.pump).await?
        }
    };
    launching.launches.set(true);
    let mut keepers = vec![launching.clone()];
    keepers.extend(
        links
            .into_iter()
            .map(|(_, link)| link)
            .filter(|link| !Rc::ptr_eq(link, &launching)),
    );
    *shard.keepers.borrow_mut() = keepers;
    Ok(adopted)
}

/// Sends those away that launch nothing and have nothing.
pub(super) async fn dismiss_spent(shard: &Rc<ShardEngine>) {
    let keepers = shard.keepers.borrow().clone();
    for keeper in keepers.iter().filter(|k| k.is_spent()) {
        if let Err(e) = keeper.shutdown_if_empty().await {
            tracing::warn!(error = %e, "a keeper without containers was not sent away");
        }
    }
}

/// Keepers that may be there and that this shard looks after: its own, oldest first, and those left by more shards.
fn names(config: &EngineConfig, shard: usize) -> Vec<KeeperName> {
    let listed = std::fs::read_dir(&config.exec_root)
        .into_iter()
        .flatten()
        .flatten();
    let mut names: Vec<KeeperName> = listed
        .filter_map(|file| KeeperName::of_socket(file.file_name().to_str()?))
        .filter(|name| name.shard % config.shards == shard)
        .collect();
    names.sort_unstable();
    names
}
