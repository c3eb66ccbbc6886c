use std::sync::atomic::Ordering::Release;

use super::*;

fn commit<'a>(epoch: u64, seq: u64, carry: &'a [u8]) -> SlotCommit<'a> {
    SlotCommit {
        ring_epoch: epoch,
        cq_seq: seq,
        log_bytes: 7,
        log_id: 9,
        spill_offset: 11,
        spill_end: 12,
        long_carry: [13, 14],
        carry: [(carry, 5), (b"", 0)],
        raw_bytes: [1, 2],
        lost: Lost {
            records: 3,
            bytes: 4,
            reason: 6,
        },
    }
}

#[test]
fn commits_are_read_back_and_reset_changes_the_generation() {
    let journal = JournalMap::create().expect("journal");
    let first = journal.reset(4095).expect("reset");
    let long = vec![b'x'; CARRY_BYTES];
    journal.commit(4095, &commit(3, 10, &long)).expect("commit");
    let state = journal.load(4095).expect("load");
    assert_eq!(
        (
            state.ring_epoch,
            state.cq_seq,
            state.log_bytes,
            state.log_id
        ),
        (3, 10, 7, 9)
    );
    assert_eq!(
        state.carry[0],
        Carry {
            bytes: long,
            partial_time_ns: 5
        }
    );
    assert_eq!(state.lost, commit(0, 0, b"").lost);
    assert_eq!((state.spill_offset, state.spill_end), (11, 12));
    assert_eq!(state.long_carry, [13, 14]);
    assert_eq!(journal.committed_seq(4095, 3).expect("seq"), 10);
    assert_eq!(journal.committed_seq(4095, 4).expect("seq"), 0);
    assert_ne!(journal.reset(4095).expect("reset"), first);
    let empty = journal.load(4095).expect("load");
    assert_eq!((empty.raw_bytes, empty.lost), ([0, 0], Lost::default()));
    assert!(matches!(journal.load(4096), Err(ShmError::NoSlot(4096))));
}

#[test]
fn a_commit_that_was_not_flipped_is_not_seen() {
    let journal = JournalMap::create().expect("journal");
    journal.commit(1, &commit(1, 1, b"a")).expect("commit");
    let too_long = vec![0; CARRY_BYTES + 1];
    assert!(journal.commit(1, &commit(1, 2, &too_long)).is_err());
    assert_eq!(journal.load(1).expect("load").cq_seq, 1);
}

#[test]
fn head_seq_survives_wrap_around() {
    let ring = RingMap::create(1).expect("ring");
    ring.note_head_seq(0x1_ffff_fff0);
    assert_eq!(ring.head_seq(0xffff_ffe0), 0x1_ffff_ffe0);
    assert_eq!(ring.head_seq(5), 0x2_0000_0005);
}

#[test]
fn user_data_round_trip() {
    let user = UserData {
        slot: 4095,
        generation: 65535,
        stream: Stream::Stderr,
    };
    assert_eq!(UserData::decode(user.encode()), Some(user));
    assert_eq!(UserData::decode(u64::MAX), None);
}

#[test]
fn drain_skips_what_is_committed_or_stale() {
    let ring = RingMap::create(77).expect("ring");
    let head = RINGS_OFFSET as u32;
    let geometry = RingGeometry {
        cq_head: head,
        cq_tail: head + 4,
        cqes: head + 64,
        cq_entries: CQ_ENTRIES,
    };
    ring.publish(geometry);
    let journal = JournalMap::create().expect("journal");
    let generation = journal.reset(2).expect("reset");
    for i in 0..4u32 {
        let old = u16::from(i == 3);
        let user = UserData {
            slot: 2,
            generation: generation.wrapping_sub(old),
            stream: Stream::Stdout,
        };
        let at = geometry.cqes as usize + i as usize * 16;
        ring.map().write(at, &user.encode().to_ne_bytes());
        ring.map().write(at + 8, &3i32.to_ne_bytes());
        ring.map().write(
            at + 12,
            &(i << 16 | Cqe::F_BUFFER | Cqe::F_MORE).to_ne_bytes(),
        );
        ring.map().write(
            BUFFERS_OFFSET + i as usize * RING_BUFFER_BYTES,
            format!("ab{i}").as_bytes(),
        );
    }
    ring.map()
        .atomic_u32(geometry.cq_tail as usize)
        .store(4, Release);
    journal.commit(2, &commit(77, 1, b"")).expect("commit");
    let mut out = Vec::new();
    let stats = drain_ring(ring, &journal, &mut |slot, stream, bytes| {
        assert_eq!((slot, stream), (2, Stream::Stdout));
        out.extend_from_slice(bytes);
        Ok(())
    })
    .expect("drain");
    assert_eq!(out, b"ab1ab2");
    assert_eq!(
        stats,
        DrainStats {
            completions: 4,
            committed: 1,
            bytes: 6,
            orphans: 0,
            stale: 1
        }
    );
}

#[test]
fn spill_round_trip_and_release() {
    let path = std::env::temp_dir().join(format!("gantry-spill-{}", std::process::id()));
    let open = || {
        std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
    };
    let mut writer = SpillWriter::new(open().expect("open")).expect("writer");
    writer.append(Stream::Stderr, b"hello", 1).expect("append");
    let middle = writer.end();
    writer.release(middle).expect("release");
    writer.append_gap(42, 2).expect("gap");
    let mut reader = SpillReader::new(open().expect("open"), 0, middle);
    assert_eq!(reader.next_record().expect("a hole"), None);
    let mut reader = SpillReader::new(open().expect("open"), 0, writer.end());
    let gap = SpillRecord::Gap(42);
    assert_eq!(reader.next_record().expect("behind the hole"), Some(gap));
    let mut reader = SpillReader::new(open().expect("open"), middle, writer.end());
    assert_eq!(
        reader.next_record().expect("record"),
        Some(SpillRecord::Gap(42))
    );
    assert_eq!(reader.next_record().expect("end"), None);
    let committed = writer.end();
    writer.append_dropped(7, 8, 3).expect("dropped");
    writer.append_end(Stream::Stderr, 4).expect("end");
    reader.set_end(writer.end());
    let (bytes, records) = (7, 8);
    let dropped = SpillRecord::Dropped { bytes, records };
    assert_eq!(reader.next_record().expect("record"), Some(dropped));
    let (stream, time_ns) = (Stream::Stderr, 4);
    let ended = SpillRecord::End { stream, time_ns };
    assert_eq!(reader.next_record().expect("record"), Some(ended));
    writer.go_on_at(committed).expect("cut");
    assert_eq!(
        open().expect("open").metadata().expect("stat").len(),
        committed
    );
    assert!(!writer.has_room(middle, SPILL_LIMIT_BYTES as usize));
    std::fs::remove_file(&path).expect("remove");
}
