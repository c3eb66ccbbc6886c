//! Multiplexed frames and detach keys.

use bytes::BytesMut;
use gantry_stream::keys::{Detector, parse};
use gantry_stream::mux::{FrameReader, put_frame};
use proptest::prelude::*;

proptest! {
    #[test]
    fn frames_survive_any_split(
        frames in proptest::collection::vec((1..4u8, proptest::collection::vec(any::<u8>(), 1..100)), 0..20),
        cut in 1..50usize,
    ) {
        let mut wire = BytesMut::new();
        for (stream, bytes) in &frames {
            put_frame(&mut wire, *stream, bytes);
        }
        let (mut reader, mut back) = (FrameReader::default(), Vec::new());
        for piece in wire.chunks(cut) {
            reader.push(piece);
            while let Some((stream, bytes)) = reader.next_frame().expect("frame") {
                back.push((stream, bytes.to_vec()));
            }
        }
        prop_assert_eq!(back, frames);
        prop_assert_eq!(reader.rest(), 0);
    }

    #[test]
    fn no_bytes_panic_the_frame_reader(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut reader = FrameReader::default();
        reader.push(&bytes);
        while let Ok(Some(_)) = reader.next_frame() {}
    }

    #[test]
    fn input_without_the_keys_passes(text in "[a-p]{0,50}", cut in 1..9usize) {
        let (mut detector, mut out) = (Detector::new(parse("p,q").expect("keys")), Vec::new());
        for piece in text.as_bytes().chunks(cut) {
            prop_assert!(!detector.feed(piece, &mut out));
        }
        detector.flush(&mut out);
        prop_assert_eq!(out, text.into_bytes());
    }
}

#[test]
fn keys_are_parsed_and_found() {
    assert_eq!(
        parse("ctrl-a,b,ctrl-[,DEL,ctrl-@"),
        Ok(vec![1, b'b', 27, 127, 0])
    );
    assert_eq!(parse(""), Ok(vec![16, 17]));
    assert!(parse("ctrl-A").is_err() && parse("ab").is_err());
    let (mut detector, mut out) = (Detector::new(vec![16, 17]), Vec::new());
    assert!(!detector.feed(&[b'x', 16], &mut out));
    assert!(detector.feed(&[17, b'y'], &mut out));
    assert_eq!(out, [b'x']);
    // The key that breaks a sequence does not begin the next one.
    let (mut detector, mut out) = (Detector::new(vec![16, 17]), Vec::new());
    assert!(!detector.feed(&[16, 16, 17], &mut out));
    assert_eq!(out, [16, 16, 17]);
}
