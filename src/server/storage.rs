//! From `[storage]` to an open store that belongs to the index.

use berth_storage::cloud::{
    Azure, AzureCredentials, Encryption, Gcs, Provider, S3, S3Credentials, Settings, Signing,
};
use berth_storage::{Key, Memory, Store, StoreError, cache};

use super::{Binding, ServerError};
use crate::clock::Clock;
use crate::config::{self, Config, ConfigError, RedirectMode, S3Encryption, Secret, StorageKind};
use crate::db::{Db, blobs, stores};

/// Opens the store, and gives it a name if it has none yet.
pub(super) async fn open(
    config: &Config,
    db: &Db,
    clock: &Clock,
    binding: Binding,
) -> Result<Store, ServerError> {
    let memory = Memory {
        upload_bytes: config.limits.upload_memory.bytes(),
        download_bytes: config.limits.download_memory.bytes(),
    };
    let Some(settings) = settings(&config.storage)? else {
        return Ok(Store::open_filesystem(&config.storage.folder(&config.data), memory).await?);
    };
    let store = Store::open_cloud(&settings, memory).await?;
    if store.id().is_some() {
        return Ok(store);
    }
    if binding == Binding::Check {
        if blobs::any(db).await? {
            return Err(ServerError::OtherStore { store: store.location() });
        }
        if !store.is_empty().await? {
            return Err(ServerError::Unindexed { store: store.location() });
        }
    }
    // Replicas that start together on a new bucket: the index says what it is called, so that they agree.
    let mut tx = db.begin().await?;
    stores::adopt(&mut tx, Key::generate().as_str(), clock.now()).await?;
    tx.commit().await?;
    let id = stores::find(db).await?.unwrap_or_default();
    store.name(&id).await?;
    Ok(store)
}

/// Opens the cache, where there is to be one. Commands that run beside a server do without.
pub(super) async fn keep_near(store: &Store, config: &config::Cache) -> Result<(), StoreError> {
    let Some(folder) = config.folder.clone() else { return Ok(()) };
    store.keep_near(cache::Settings { folder, size_bytes: config.size.bytes() }).await
}

/// `None` for a folder.
fn settings(storage: &config::Storage) -> Result<Option<Settings>, ConfigError> {
    let provider = match storage.kind {
        StorageKind::Filesystem => return Ok(None),
        StorageKind::S3 => Provider::S3(amazon(&storage.s3)),
        StorageKind::Azure => Provider::Azure(microsoft(&storage.azure)?),
        StorageKind::Gcs => Provider::Gcs(google(&storage.gcs)),
    };
    let redirect = &storage.redirect;
    let signing = (redirect.mode != RedirectMode::Off).then(|| Signing {
        public_endpoint: redirect.public_endpoint.clone(),
        life: redirect.expires_in.get(),
    });
    Ok(Some(Settings {
        provider,
        prefix: storage.prefix.clone(),
        part_bytes: storage.part_size.bytes(),
        signing,
    }))
}

fn reveal(secret: Option<&Secret>) -> Option<String> {
    secret.map(|secret| secret.reveal().to_owned())
}

fn amazon(s3: &config::S3) -> S3 {
    let credentials = match (&s3.access_key_id, reveal(s3.secret_access_key.as_ref())) {
        (Some(id), Some(secret)) => S3Credentials::Key { id: id.clone(), secret },
        _ => S3Credentials::Chain { profile: s3.profile.clone() },
    };
    let encryption = match s3.encryption {
        S3Encryption::Bucket => None,
        S3Encryption::S3 => Some(Encryption::S3),
        S3Encryption::Kms => Some(Encryption::Kms { key: s3.kms_key_id.clone(), bucket_key: s3.bucket_key }),
    };
    let is_plain = s3.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    S3 {
        bucket: s3.bucket.clone().unwrap_or_default(),
        region: s3.region.clone(),
        path_style: s3.path_style.unwrap_or(s3.endpoint.is_some()),
        endpoint: s3.endpoint.clone(),
        credentials,
        encryption,
        sign_payload: s3.sign_payload.unwrap_or(is_plain),
        crc64nvme: s3.crc64nvme,
        ca_file: s3.ca_file.clone(),
    }
}

fn microsoft(azure: &config::Azure) -> Result<Azure, ConfigError> {
    let container = azure.container.clone().unwrap_or_default();
    let ca_file = azure.ca_file.clone();
    if let Some(text) = reveal(azure.connection_string.as_ref()) {
        return Azure::from_connection_string(&text, container, ca_file)
            .map_err(|error| ConfigError::Invalid(format!("storage.azure.connection_string: {error}")));
    }
    let credentials = match (reveal(azure.account_key.as_ref()), reveal(azure.sas.as_ref())) {
        (Some(key), _) => AzureCredentials::Key(key),
        (None, Some(sas)) => AzureCredentials::Sas(sas),
        (None, None) => AzureCredentials::Environment { client_id: azure.client_id.clone() },
    };
    let account = azure.account.clone().unwrap_or_default();
    Ok(Azure { account, container, endpoint: azure.endpoint.clone(), credentials, ca_file })
}

fn google(gcs: &config::Gcs) -> Gcs {
    Gcs {
        bucket: gcs.bucket.clone().unwrap_or_default(),
        endpoint: gcs.endpoint.clone(),
        service_account_file: gcs.service_account_file.clone(),
        ca_file: gcs.ca_file.clone(),
    }
}
