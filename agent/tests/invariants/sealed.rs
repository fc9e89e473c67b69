//! What holds for any bytes that are read as a sealed state: nothing is opened that was not sealed, and what a frame
//! says can be sealed and read again.

use vouchsafe_agent::sealed::log::{self, Head, LOG_ID_BYTES};
use vouchsafe_agent::sealed::record::{Batch, Change, Contents, Reader};
use vouchsafe_identity::secret::Secret;
use vouchsafe_runtime::seal::SealKeys;

const AGENT: &str = "spiffe://example.org/spire/agent/join_token/one";
const ID: [u8; LOG_ID_BYTES] = [7; LOG_ID_BYTES];

fn head(frames: u64) -> Head {
    Head {
        log: ID,
        frames,
        sealed_at: 0,
    }
}

fn contents(texts: &[&[u8]]) -> Option<Contents> {
    let mut reader = Reader::default();
    for text in texts {
        reader.take(text).ok()?;
    }
    reader.finish().ok()
}

/// Reads any bytes as a head, as a log, as what follows a log's beginning, and as the text of a frame.
pub(crate) fn check(data: &[u8]) {
    let keys = SealKeys::derive(&Secret::new(vec![1; 32])).expect("32 bytes are enough");
    assert!(Head::open(&keys, AGENT, &mut data.to_vec()).is_err());
    for bytes in [data.to_vec(), [&log::header(&ID)[..], data].concat()] {
        let read = log::read(&keys, AGENT, &head(0), &mut bytes.clone(), |_| Ok(()));
        assert!(
            read.is_err() || read.is_ok_and(|read| read.frames == 0),
            "opened what nobody sealed"
        );
    }

    let frame = log::frame(&keys, AGENT, &ID, 0, data).expect("it is short");
    let mut sealed = [log::header(&ID), frame].concat();
    let mut opened = Vec::new();
    let read = log::read(&keys, AGENT, &head(1), &mut sealed, |text| {
        opened.extend_from_slice(text);
        Ok(())
    });
    assert!(read.is_ok_and(|read| read.frames == 1 && !read.torn));
    assert_eq!(opened, data);

    let Some(first) = contents(&[data]) else {
        return;
    };
    let entries = first.entries.iter().map(|entry| Change::entry(entry));
    let bundles = first.bundles.iter().map(Change::bundle);
    let svids = first.svids.iter().map(|(id, svid)| Change::svid(id, svid));
    let batch = Batch {
        changes: entries.chain(bundles).chain(svids).collect(),
        last: true,
    };
    let again = contents(&[&batch.to_bytes()]).expect("our own batch");
    assert_eq!(again.entries, first.entries);
    assert_eq!(again.bundles, first.bundles);
    let held = |contents: &Contents| -> Vec<_> {
        let svids = contents.svids.iter();
        svids
            .map(|(id, svid)| {
                (
                    id.clone(),
                    svid.key.expose().clone(),
                    svid.lifetime,
                    svid.serial.clone(),
                )
            })
            .collect()
    };
    assert_eq!(held(&again), held(&first));
}
