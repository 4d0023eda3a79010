//! Files that a node keeps of its catalogues: what decides, before a seal was checked or after, what becomes of their bytes.

use semel_fuzz::fuzz;
use semel_index::{
    CanonicalEmbedding, Catalogue, CatalogueConfig, Checkpoint, CheckpointHeader, CheckpointOf, EnrolmentId,
    FoundSegment, GalleryId, Modality, Position, SegmentFile, SegmentHeader, Slot, StagedReference, StoreKey, StoredId,
    StoredParts, Template, TemplateSpec, WantedSegment,
};

fn key() -> StoreKey {
    StoreKey::new([7; 32])
}

/// Only a file that is whole under its own seal is taken; its header alone decides how much is read.
#[test]
fn segment_files() {
    fuzz!(|bytes| {
        let Ok(header) = SegmentHeader::of_file(bytes) else { return };
        let id = bytes.last_chunk::<32>().map_or(StoredId([0; 32]), |seal| StoredId(*seal));
        let read = |pieces: usize| {
            let key = key();
            let mut file = SegmentFile::new(&key, &header, true);
            bytes.chunks(pieces).try_for_each(|piece| file.push(piece))?;
            file.finish(id)
        };
        match (read(4_096), read(7)) {
            (Ok(whole), Ok(pieces)) => {
                assert_eq!(whole.engine, pieces.engine);
                let rows = whole.rows.expect("asked for");
                assert_eq!(rows.len(), header.rows as usize);
                let at = whole.reader.row_at(0) as usize;
                let mut seen = 0;
                let content = &bytes[at..bytes.len() - 32];
                whole.reader.read(0, content, &mut |_, _| seen += 1).expect("each row's tag fits too");
                assert_eq!(seen, rows.len());
            }
            (Err(whole), Err(pieces)) => assert_eq!(whole, pieces, "pieces of any length are judged alike"),
            (whole, pieces) => panic!("{:?} and {:?}", whole.err(), pieces.err()),
        }
    });
}

/// Has a face for everybody and no files.
struct NoFiles;

impl StoredParts for NoFiles {
    type Error = &'static str;

    fn segment(&mut self, _wanted: &WantedSegment) -> Option<FoundSegment> {
        None
    }

    fn references(&mut self, _: &GalleryId, enrolment: &EnrolmentId) -> Result<Vec<StagedReference>, &'static str> {
        if enrolment.as_str().len() > 100 {
            return Err("not there");
        }
        let face = CanonicalEmbedding::from_f32(&[1.0, 2.0, 3.0, 4.0]).map_err(|_| "not a face")?;
        let slot = Slot::new(Modality::Face, Position::Only).ok_or("no slot")?;
        let spec = TemplateSpec::Embedding { dimension: 4 };
        Ok(vec![StagedReference { slot, spec, template: Template::Embedding(face) }])
    }
}

/// What lies behind the seal: nothing that it says may break the catalogue that is made of it.
#[test]
fn checkpoints() {
    fuzz!(|bytes| {
        let of = CheckpointOf { shard: 3, parameters: "as here".to_owned() };
        assert!(Checkpoint::decode(&key(), &of, bytes).is_err(), "these are not sealed");
        let Ok(checkpoint) = Checkpoint::decode_unsealed(&of, bytes) else { return };
        let Ok(mut catalogue) = Catalogue::resume(CatalogueConfig::default(), &checkpoint, &mut NoFiles) else {
            return;
        };
        let snapshot = catalogue.snapshot();
        for gallery in snapshot.galleries() {
            assert!(snapshot.live(gallery) <= snapshot.staged(gallery));
        }
        let CheckpointHeader { searchable_index, .. } = checkpoint.header();
        assert_eq!(snapshot.searchable_index(), *searchable_index);
        let written = snapshot.checkpoint(&key(), checkpoint.header());
        let again = Checkpoint::decode(&key(), &of, &written).expect("what was written can be read");
        assert_eq!(again.segments().count(), 0, "no files, none named");
    });
}
