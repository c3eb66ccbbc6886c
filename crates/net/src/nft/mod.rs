//! Packet filters: tables, chains, rules, sets and their elements (nf_tables), in transactions that are carried out as a whole
//! or not at all.

mod expression;
mod set;

pub use expression::{Compare, Ct, Expression, Fib, Meta, NatFamily, Part, Register, Verdict};
pub use set::{Element, Field, Set, SetFlags, key};

use crate::error::NetError;
use crate::message::{Attributes, Batch, MAX_BATCH_BYTES, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use crate::socket::Socket;

/// Of nfnetlink.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;

/// Room that a transaction leaves for its end.
const END_BYTES: usize = 64;

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// IPv4 and IPv6 (`NFPROTO_INET`).
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// IPv6.
    Ip6 = 10,
}

/// A table, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table<'a> {
    /// Which packets.
    pub family: Family,
    /// Its name.
    pub name: &'a str,
}

/// Where packets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum HookPoint {
    /// As they come in.
    Prerouting = 0,
    /// For this host.
    Input = 1,
    /// From one link to another.
    Forward = 2,
    /// Made here.
    Output = 3,
    /// As they go out.
    Postrouting = 4,
}

/// What a chain at a hook is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Lets through or not.
    Filter,
    /// Sees the first packet of each connection, and may change its addresses.
    Nat,
}

/// Where a chain sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// What for.
    pub kind: ChainKind,
    /// Where.
    pub point: HookPoint,
    /// Lower ones come first.
    pub priority: i32,
    /// Whether what no rule decides is dropped.
    pub drops: bool,
}

/// Changes that are made together.
#[derive(Debug)]
pub struct Transaction {
    batch: Batch,
    sets: u32,
}

impl Default for Transaction {
    fn default() -> Self {
        Transaction::new()
    }
}

fn kind(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

/// `struct nfgenmsg`.
fn head(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

impl Transaction {
    /// Without changes.
    pub fn new() -> Transaction {
        let mut batch = Batch::new();
        batch.request(BATCH_BEGIN, 0, &head(0, SUBSYSTEM));
        Transaction { batch, sets: 0 }
    }

    fn request(
        &mut self,
        message: u16,
        flags: u16,
        table: Table<'_>,
    ) -> crate::message::Request<'_> {
        self.batch
            .request(kind(message), flags, &head(table.family as u8, 0))
    }

    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        self.batch.len() == 1
    }

    /// Whether there is room for `bytes` more.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.batch.size_bytes() + bytes + END_BYTES <= MAX_BATCH_BYTES
    }

    /// Makes a table unless it is there.
    pub fn add_table(&mut self, table: Table<'_>) {
        self.request(NEWTABLE, NLM_F_CREATE, table)
            .put_text(TABLE_NAME, table.name);
    }

    /// Removes a table and what is in it. One that is not there fails the transaction.
    pub fn remove_table(&mut self, table: Table<'_>) {
        self.request(DELTABLE, 0, table)
            .put_text(TABLE_NAME, table.name);
    }

    /// Makes a chain unless it is there. Without a hook it is one that rules jump to.
    pub fn add_chain(&mut self, table: Table<'_>, name: &str, hook: Option<Hook>) {
        let mut request = self.request(NEWCHAIN, NLM_F_CREATE, table);
        request
            .put_text(CHAIN_TABLE, table.name)
            .put_text(CHAIN_NAME, name);
        let Some(hook) = hook else { return };
        request
            .nest(CHAIN_HOOK, |r| {
                r.put_be32(HOOK_NUMBER, hook.point as u32);
                r.put_be32(HOOK_PRIORITY, hook.priority as u32);
            })
            .put_be32(CHAIN_POLICY, u32::from(!hook.drops))
            .put_text(
                CHAIN_TYPE,
                match hook.kind {
                    ChainKind::Filter => "filter",
                    ChainKind::Nat => "nat",
                },
            );
    }

    /// Removes a chain without rules.
    pub fn remove_chain(&mut self, table: Table<'_>, name: &str) {
        self.request(DELCHAIN, 0, table)
            .put_text(CHAIN_TABLE, table.name)
            .put_text(CHAIN_NAME, name);
    }

    /// Removes the rules of a chain.
    pub fn clear_chain(&mut self, table: Table<'_>, name: &str) {
        self.request(DELRULE, 0, table)
            .put_text(RULE_TABLE, table.name)
            .put_text(RULE_CHAIN, name);
    }

    /// Adds a rule behind the others of a chain.
    pub fn add_rule(&mut self, table: Table<'_>, chain: &str, rule: &[Expression<'_>]) {
        let mut request = self.request(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, table);
        request
            .put_text(RULE_TABLE, table.name)
            .put_text(RULE_CHAIN, chain)
            .nest(RULE_EXPRESSIONS, |r| {
                for expression in rule {
                    expression.put(r);
                }
            });
    }

    /// Makes a set or map unless it is there; one with other fields under its name fails the transaction.
    pub fn add_set(&mut self, table: Table<'_>, set: &Set<'_>) {
        self.sets += 1;
        let id = self.sets;
        let mut request = self.request(NEWSET, NLM_F_CREATE, table);
        set.put(&mut request, table.name, id);
    }

    /// Removes a set that no rule uses.
    pub fn remove_set(&mut self, table: Table<'_>, name: &str) {
        self.request(DELSET, 0, table)
            .put_text(set::SET_TABLE, table.name)
            .put_text(set::SET_NAME, name);
    }

    /// Adds elements. One whose key is there with another value fails the transaction.
    pub fn add_elements(&mut self, table: Table<'_>, set: &str, elements: &[Element]) {
        let mut request = self.request(NEWSETELEM, NLM_F_CREATE, table);
        set::put_elements(&mut request, table.name, set, elements);
    }

    /// Adds elements, none of which may be there already.
    pub fn add_new_elements(&mut self, table: Table<'_>, set: &str, elements: &[Element]) {
        let mut request = self.request(NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, table);
        set::put_elements(&mut request, table.name, set, elements);
    }

    /// Removes elements. One that is not there fails the transaction.
    pub fn remove_elements(&mut self, table: Table<'_>, set: &str, elements: &[Element]) {
        let mut request = self.request(DELSETELEM, 0, table);
        set::put_elements(&mut request, table.name, set, elements);
    }

    /// Removes all elements of a set.
    pub fn clear_set(&mut self, table: Table<'_>, set: &str) {
        self.request(DELSETELEM, 0, table)
            .put_text(set::LIST_TABLE, table.name)
            .put_text(set::LIST_SET, set);
    }

    /// Carries the changes out. After an error none of them is made.
    pub fn commit(mut self, socket: &mut Socket) -> Result<(), NetError> {
        if self.is_empty() {
            return Ok(());
        }
        let last = self.batch.len() - 1;
        self.batch.request(BATCH_END, 0, &head(0, SUBSYSTEM));
        // The end of a batch is not acknowledged before Linux 6.14; the last change is, when all are made.
        socket.send_acknowledged(&mut self.batch, last)
    }
}

/// The elements of a set: those that were there when it was asked for.
pub fn elements(
    socket: &mut Socket,
    table: Table<'_>,
    set: &str,
) -> Result<Vec<Element>, NetError> {
    let mut found = Vec::new();
    let ask = |request: &mut crate::message::Request<'_>| {
        request
            .put_text(set::LIST_TABLE, table.name)
            .put_text(set::LIST_SET, set);
    };
    let head = head(table.family as u8, 0);
    socket.dump_of(kind(GETSETELEM), &head, ask, |received, payload| {
        if received == kind(NEWSETELEM) {
            set::parse_elements(
                Attributes::new(payload.get(4..).unwrap_or_default()),
                &mut found,
            );
        }
    })?;
    Ok(found)
}

/// How many rules each chain of a table has, by the chain's name. Empty without the table.
pub fn rule_counts(
    socket: &mut Socket,
    table: Table<'_>,
) -> Result<std::collections::BTreeMap<String, usize>, NetError> {
    let mut counts = std::collections::BTreeMap::new();
    let head = head(table.family as u8, 0);
    socket.dump_of(
        kind(GETCHAIN),
        &head,
        |_| {},
        |received, payload| {
            let attributes = Attributes::new(payload.get(4..).unwrap_or_default());
            if received == kind(NEWCHAIN)
                && attributes.text(CHAIN_TABLE) == Some(table.name)
                && let Some(name) = attributes.text(CHAIN_NAME)
            {
                counts.insert(name.to_owned(), 0);
            }
        },
    )?;
    socket.dump_of(
        kind(GETRULE),
        &head,
        |_| {},
        |received, payload| {
            let attributes = Attributes::new(payload.get(4..).unwrap_or_default());
            if received == kind(NEWRULE)
                && attributes.text(RULE_TABLE) == Some(table.name)
                && let Some(count) = attributes.text(RULE_CHAIN).and_then(|c| counts.get_mut(c))
            {
                *count += 1;
            }
        },
    )?;
    Ok(counts)
}
