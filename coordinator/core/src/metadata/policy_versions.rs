//! Creating galleries and putting new policies in force.

use semel_index::{GalleryId, KeyVersion, PolicyVersion};
use semel_raft::StoreError;

use crate::digest::ContentDigestKey;
use crate::gallery::{Policy, VersionedPolicy};
use crate::metadata::command::KEY_VERSION_FIRST;
use crate::metadata::machine::{CommandResult, MetadataReceipt, MetadataRefusal, Transaction, corrupt};
use crate::metadata::row::{self, MetadataRow};
use crate::metadata::{GALLERIES_MAX, GalleryRecord, GalleryRow, POLICY_VERSIONS_MAX};
use crate::rotation::GalleryKey;

const POLICY_VERSION_FIRST: PolicyVersion = PolicyVersion(1);

impl Transaction<'_> {
    pub(crate) fn create_gallery(
        &mut self,
        name: GalleryId,
        policy: Policy,
        key: GalleryKey,
        key_checksum: [u8; 32],
        created_at_ms: i64,
    ) -> CommandResult {
        if self.cluster()?.is_none() {
            return Ok(Err(MetadataRefusal::NotInitialised));
        }
        if let Some(gallery) = self.gallery(&name)? {
            let first = self.policy(&name, POLICY_VERSION_FIRST)?;
            // A caller who asked for another policy must not believe that it is in force.
            return if first.policy == policy {
                self.receipt(&gallery)
            } else {
                Ok(Err(MetadataRefusal::GalleryExists))
            };
        }
        if self.scan(row::galleries(), GALLERIES_MAX)?.len() >= GALLERIES_MAX {
            return Ok(Err(MetadataRefusal::TooManyGalleries { galleries_max: GALLERIES_MAX }));
        }
        let gallery = GalleryRow {
            name: name.clone(),
            policy_version: POLICY_VERSION_FIRST,
            key_version: KEY_VERSION_FIRST,
            created_at_ms,
            digest_key: ContentDigestKey::derive(&key),
        };
        let policy = VersionedPolicy { version: POLICY_VERSION_FIRST, policy };
        self.set(MetadataRow::Policy { gallery: name.clone(), policy });
        self.set(MetadataRow::Key { gallery: name, version: KEY_VERSION_FIRST, key, checksum: key_checksum });
        self.set(MetadataRow::Gallery(gallery.clone()));
        self.receipt(&gallery)
    }

    pub(crate) fn update_policy(
        &mut self,
        name: &GalleryId,
        policy: Policy,
        expected: Option<PolicyVersion>,
    ) -> CommandResult {
        let Some(gallery) = self.gallery(name)? else { return Ok(Err(MetadataRefusal::NoSuchGallery)) };
        let current = gallery.policy_version;
        let in_force = self.policy(name, current)?;
        // The same command again, or one that changes nothing.
        let applied_before =
            expected.is_none_or(|expected| expected.0.saturating_add(1) == current.0 || expected == current);
        if in_force.policy == policy && applied_before {
            return self.receipt(&gallery);
        }
        if expected.is_some_and(|expected| expected != current) {
            return Ok(Err(MetadataRefusal::VersionMismatch { current }));
        }
        if !policy.has_specs_of(&in_force.policy) {
            return Ok(Err(MetadataRefusal::SpecsChanged));
        }
        if current.0 >= POLICY_VERSIONS_MAX {
            return Ok(Err(MetadataRefusal::TooManyPolicyVersions { policy_versions_max: POLICY_VERSIONS_MAX }));
        }
        let version = PolicyVersion(current.0 + 1);
        let gallery = GalleryRow { policy_version: version, ..gallery };
        self.set(MetadataRow::Policy { gallery: name.clone(), policy: VersionedPolicy { version, policy } });
        self.set(MetadataRow::Gallery(gallery.clone()));
        self.receipt(&gallery)
    }

    fn receipt(&self, gallery: &GalleryRow) -> CommandResult {
        let record = GalleryRecord {
            name: gallery.name.clone(),
            policy: self.policy(&gallery.name, gallery.policy_version)?,
            key_version: gallery.key_version,
            key_checksum: self.key_checksum(&gallery.name, gallery.key_version)?,
            created_at_ms: gallery.created_at_ms,
        };
        Ok(Ok(MetadataReceipt::Gallery(Box::new(record))))
    }

    fn gallery(&self, name: &GalleryId) -> Result<Option<GalleryRow>, StoreError> {
        match self.get(&row::gallery_key(name))? {
            Some(MetadataRow::Gallery(gallery)) => Ok(Some(gallery)),
            Some(_) => Err(corrupt()),
            None => Ok(None),
        }
    }

    /// A policy version that its gallery's row names: its absence is a fault of the storage.
    fn policy(&self, name: &GalleryId, version: PolicyVersion) -> Result<VersionedPolicy, StoreError> {
        match self.get(&row::policy_key(name, version))? {
            Some(MetadataRow::Policy { policy, .. }) => Ok(policy),
            Some(_) | None => Err(corrupt()),
        }
    }

    fn key_checksum(&self, name: &GalleryId, version: KeyVersion) -> Result<[u8; 32], StoreError> {
        match self.get(&row::secret_key(name, version))? {
            Some(MetadataRow::Key { checksum, .. }) => Ok(checksum),
            Some(_) | None => Err(corrupt()),
        }
    }
}
