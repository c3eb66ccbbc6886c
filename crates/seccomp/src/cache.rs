//! Compiled programs, kept by profile and capabilities.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::compile::{CompileError, Program, compile};
use crate::profile::Profile;

/// Programs a cache keeps by default.
pub const PROGRAM_CACHE_CAPACITY: usize = 64;

/// A small cache, the least recently used program leaves first. One per owner, no locks.
///
/// Capabilities the profile does not mention do not tell entries apart.
#[derive(Debug)]
pub struct ProgramCache {
    entries: VecDeque<Entry>,
    capacity: usize,
    kernel: (u32, u32),
    hits: u64,
    misses: u64,
}

#[derive(Debug)]
struct Entry {
    profile: Arc<Profile>,
    caps_mask: u64,
    program: Program,
}

impl ProgramCache {
    /// A cache of `capacity` programs (at least one) for a kernel's version.
    pub fn new(capacity: usize, kernel: (u32, u32)) -> ProgramCache {
        ProgramCache {
            entries: VecDeque::new(),
            capacity: capacity.max(1),
            kernel,
            hits: 0,
            misses: 0,
        }
    }

    /// The program of a profile for a bounding set, compiled if need be.
    pub fn get(&mut self, profile: &Arc<Profile>, caps_mask: u64) -> Result<Program, CompileError> {
        let caps_mask = caps_mask & profile.relevant_caps();
        let found = self.entries.iter().position(|entry| {
            entry.caps_mask == caps_mask
                && (Arc::ptr_eq(&entry.profile, profile) || entry.profile == *profile)
        });
        if let Some(entry) = found.and_then(|at| self.entries.remove(at)) {
            self.hits += 1;
            let program = entry.program.clone();
            self.entries.push_front(entry);
            return Ok(program);
        }
        self.misses += 1;
        let program = compile(profile, caps_mask, self.kernel)?;
        self.entries.truncate(self.capacity - 1);
        self.entries.push_front(Entry {
            profile: Arc::clone(profile),
            caps_mask,
            program: program.clone(),
        });
        Ok(program)
    }

    /// How often a program was found, and how often compiled.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    /// Programs kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_least_recently_used_leaves() {
        let mut cache = ProgramCache::new(2, (6, 18));
        let profile = Arc::new(Profile::default_docker());
        let admin = 1 << 21;
        let chroot = 1 << 18;
        cache.get(&profile, 0).unwrap();
        cache.get(&profile, admin).unwrap();
        cache.get(&profile, 1 << 5).unwrap(); // CAP_KILL: no rule asks for it, so it is as 0
        assert_eq!(cache.hits_and_misses(), (1, 2));
        cache.get(&profile, chroot).unwrap(); // admin leaves
        assert_eq!(cache.len(), 2);
        cache.get(&profile, 0).unwrap();
        cache.get(&profile, admin).unwrap();
        assert_eq!(cache.hits_and_misses(), (2, 4));
    }

    #[test]
    fn an_equal_profile_of_another_client_hits() {
        let mut cache = ProgramCache::new(2, (6, 18));
        cache.get(&Arc::new(Profile::default_docker()), 0).unwrap();
        cache.get(&Arc::new(Profile::default_docker()), 0).unwrap();
        assert_eq!(cache.hits_and_misses(), (1, 1));
    }
}
