//! What nodes answer: read by coordinators, which take a fault for a defect of the node and not for an answer.

use prost::Message;
use semel_fuzz::fuzz;
use semel_index::ShardId;
use semel_proto::internal::v1 as wire;

/// Records and the templates of an enrolment.
#[test]
fn records() {
    fuzz!(|bytes| {
        let Ok(answer) = wire::ReadEnrolmentResponse::decode(bytes) else { return };
        let _ = format!("{answer:?}");
        if let Some(receipt) = answer.receipt
            && let Ok(record) = semel_coordinator_wire::record_from(receipt)
        {
            let shown = semel_coordinator_wire::enrolment(&record);
            assert_eq!(shown.references.len(), record.references.len());
            let _ = format!("{record:?}");
        }
        for reference in answer.references {
            if let Ok(reference) = semel_coordinator_wire::canonical_reference_from(reference) {
                assert!(reference.template.conforms_to(&reference.spec));
            }
        }
    });
}

/// Receipts of proposals.
#[test]
fn receipts() {
    fuzz!(|bytes| {
        let Ok(answer) = wire::ProposeResponse::decode(bytes) else { return };
        match answer.receipt {
            Some(wire::propose_response::Receipt::Enrolment(receipt)) => {
                let _ = semel_coordinator_wire::record_from(receipt).map_err(|error| error.to_string());
            }
            Some(wire::propose_response::Receipt::Refused(refused)) => {
                let _ = semel_coordinator_wire::refusal(refused).map_err(|error| error.to_string());
            }
            Some(wire::propose_response::Receipt::Done(_)) | None => {}
        }
        for obligation in answer.obligations {
            let _ = semel_coordinator_wire::gallery(&obligation.gallery);
            let _ = semel_coordinator_wire::enrolment_id(&obligation.addressee);
        }
    });
}

/// Answers to searches.
#[test]
fn shard_answers() {
    fuzz!(|bytes| {
        let Ok(answer) = wire::ShardAnswer::decode(bytes) else { return };
        for probe in answer.probes {
            let reply = semel_coordinator_wire::ProbeReply {
                epoch: answer.epoch,
                searchable_index: answer.searchable_index,
                answer: probe.clone(),
            };
            if let Ok(read) = semel_coordinator_wire::shard_answer(ShardId(0), reply) {
                let shown: Vec<_> = read.candidates.iter().map(semel_coordinator_wire::candidate).collect();
                assert_eq!(shown, probe.candidates);
            }
        }
    });
}
