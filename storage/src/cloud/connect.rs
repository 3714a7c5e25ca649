//! From settings to a client of somebody's object store.
//!
//! No static key is ever needed: without one each provider's own ways to an identity are tried.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};

use super::wire::{Connector, Patience};
use super::{Kind, Remote};
use crate::StoreError;
use crate::s3::Session;

pub(crate) const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Whose store it is.
#[derive(Debug, Clone)]
pub enum Provider {
    /// Amazon S3, or whatever speaks its protocol.
    S3(S3),
    /// Azure Blob Storage.
    Azure(Azure),
    /// Google Cloud Storage.
    Gcs(Gcs),
}

/// A bucket that speaks S3.
#[derive(Debug, Clone)]
pub struct S3 {
    /// Its name.
    pub bucket: String,
    /// Where it is; asked of the environment if not given.
    pub region: Option<String>,
    /// The address, where it is not Amazon's.
    pub endpoint: Option<String>,
    /// Whether the bucket's name stands in the path and not in the host name.
    pub path_style: bool,
    /// Who asks.
    pub credentials: S3Credentials,
    /// How objects are encrypted at rest; what the bucket says if not given.
    pub encryption: Option<Encryption>,
    /// Whether each request says the SHA-256 of its body, which the store then compares.
    pub sign_payload: bool,
    /// Whether each request carries a CRC-64/NVME of its body, which not every store knows.
    pub crc64nvme: bool,
    /// Certificates to trust besides the system's, PEM.
    pub ca_file: Option<PathBuf>,
}

/// Who asks S3.
#[derive(Clone)]
pub enum S3Credentials {
    /// Whatever the environment has: variables, profile, SSO, process, web identity, EKS Pod Identity,
    /// ECS, instance metadata.
    Chain {
        /// The profile to take, if not the default one.
        profile: Option<String>,
    },
    /// An access key.
    Key {
        /// Its id.
        id: String,
        /// Its secret.
        secret: String,
    },
}

/// How S3 encrypts objects at rest.
#[derive(Debug, Clone)]
pub enum Encryption {
    /// With keys of S3 (SSE-S3).
    S3,
    /// With a key of KMS (SSE-KMS).
    Kms {
        /// Which; the account's own key for S3 if not given.
        key: Option<String>,
        /// Whether S3 derives keys from it for a while, which costs fewer requests to KMS.
        bucket_key: bool,
    },
}

/// A container of Azure Blob Storage.
#[derive(Debug, Clone)]
pub struct Azure {
    /// The storage account.
    pub account: String,
    /// The container.
    pub container: String,
    /// The address, where it is not `https://ACCOUNT.blob.core.windows.net`.
    pub endpoint: Option<String>,
    /// Who asks.
    pub credentials: AzureCredentials,
    /// Certificates to trust besides the system's, PEM.
    pub ca_file: Option<PathBuf>,
}

/// Who asks Azure.
#[derive(Clone)]
pub enum AzureCredentials {
    /// Whatever the environment has: workload identity, client secret, managed identity.
    Environment {
        /// The client id of a managed identity that the machine has besides its own.
        client_id: Option<String>,
    },
    /// A key of the account.
    Key(String),
    /// A shared access signature, `sv=…&sig=…`.
    Sas(String),
}

/// A bucket of Google Cloud Storage.
#[derive(Debug, Clone)]
pub struct Gcs {
    /// Its name.
    pub bucket: String,
    /// The address, where it is not Google's.
    pub endpoint: Option<String>,
    /// The key file of a service account. Without one the environment is asked: application default
    /// credentials, workload identity, the machine's own account.
    pub service_account_file: Option<PathBuf>,
    /// Certificates to trust besides the system's, PEM.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain { profile } => f.debug_struct("Chain").field("profile", profile).finish(),
            Self::Key { id, .. } => f.debug_struct("Key").field("id", id).finish_non_exhaustive(),
        }
    }
}

impl fmt::Debug for AzureCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment { .. } => "Environment",
            Self::Key(_) => "Key",
            Self::Sas(_) => "Sas",
        })
    }
}

impl Azure {
    /// Takes a connection string apart, as the portal shows it.
    pub fn from_connection_string(
        text: &str,
        container: String,
        ca_file: Option<PathBuf>,
    ) -> Result<Self, StoreError> {
        let fields: HashMap<&str, &str> =
            text.split(';').filter_map(|field| field.trim().split_once('=')).collect();
        let field = |name: &str| fields.get(name).map(|value| (*value).to_owned());
        let account = field("AccountName");
        let suffixed = || {
            let scheme = field("DefaultEndpointsProtocol").unwrap_or_else(|| "https".into());
            Some(format!("{scheme}://{}.blob.{}", account.as_ref()?, field("EndpointSuffix")?))
        };
        let endpoint =
            field("BlobEndpoint").map(|url| url.trim_end_matches('/').to_owned()).or_else(suffixed);
        let credentials = match (field("AccountKey"), field("SharedAccessSignature")) {
            (Some(key), _) => AzureCredentials::Key(key),
            (None, Some(sas)) => AzureCredentials::Sas(sas),
            (None, None) => {
                return Err(StoreError::Settings(
                    "it has neither AccountKey nor SharedAccessSignature".into(),
                ));
            }
        };
        // A string with a signature need not name the account; its address does.
        let named = || {
            let host = endpoint.as_ref()?.split_once("://")?.1;
            host.split(['.', ':', '/']).next().map(ToOwned::to_owned)
        };
        let account = account.clone().or_else(named);
        let account = account.ok_or_else(|| StoreError::Settings("it has no AccountName".into()))?;
        Ok(Self { account, container, endpoint, credentials, ca_file })
    }
}

impl Provider {
    /// Which of the three it is, and where, for people.
    pub(super) fn describe(&self) -> (Kind, String) {
        let at = |endpoint: &Option<String>| {
            endpoint.as_ref().map(|endpoint| format!(" at {endpoint}")).unwrap_or_default()
        };
        match self {
            Self::S3(s3) => (Kind::S3, format!("s3://{}{}", s3.bucket, at(&s3.endpoint))),
            Self::Azure(azure) => {
                let Azure { account, container, endpoint, .. } = azure;
                (Kind::Azure, format!("azure://{account}/{container}{}", at(endpoint)))
            }
            Self::Gcs(gcs) => (Kind::Gcs, format!("gs://{}{}", gcs.bucket, at(&gcs.endpoint))),
        }
    }
}

/// A client, which talks to `endpoint` instead of the usual address if there is one.
pub(super) fn connect(
    provider: &Provider,
    endpoint: Option<&String>,
    session: Option<&Session>,
    patience: Patience,
) -> Result<Arc<dyn Remote>, StoreError> {
    match provider {
        Provider::S3(s3) => amazon(s3, endpoint.or(s3.endpoint.as_ref()), session, patience),
        Provider::Azure(azure) => microsoft(azure, endpoint.or(azure.endpoint.as_ref()), patience),
        Provider::Gcs(gcs) => google(gcs, endpoint.or(gcs.endpoint.as_ref()), patience),
    }
}

fn amazon(
    settings: &S3,
    endpoint: Option<&String>,
    session: Option<&Session>,
    patience: Patience,
) -> Result<Arc<dyn Remote>, StoreError> {
    let region = settings.region.clone().or_else(|| session?.region());
    let region = match (region, endpoint) {
        (Some(region), _) => region,
        // Others hardly care, but a signature names one.
        (None, Some(_)) => "us-east-1".to_owned(),
        (None, None) => {
            return Err(StoreError::Settings(
                "storage.s3.region is not set, and neither the environment nor the profile names one".into(),
            ));
        }
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&settings.bucket)
        .with_region(region)
        .with_virtual_hosted_style_request(!settings.path_style)
        .with_unsigned_payload(!settings.sign_payload)
        .with_disable_tagging(true)
        // One by one: that is what every store knows.
        .with_disable_bulk_delete(true)
        .with_client_options(options(endpoint, settings.ca_file.as_ref())?)
        .with_retry(retry(patience))
        .with_http_connector(Connector { patience });
    if let Some(endpoint) = endpoint {
        let address =
            if settings.path_style { endpoint.clone() } else { virtual_host(endpoint, &settings.bucket) };
        builder = builder.with_endpoint(address);
    }
    if settings.crc64nvme {
        builder = builder.with_checksum_algorithm(Checksum::CRC64NVME);
    }
    if let S3Credentials::Key { id, secret } = &settings.credentials {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    } else if let Some(credentials) = session.and_then(Session::credentials) {
        builder = builder.with_credentials(credentials);
    }
    builder = match &settings.encryption {
        None => builder,
        Some(Encryption::S3) => builder.with_config(encryption_key(), "AES256"),
        Some(Encryption::Kms { key: Some(key), bucket_key }) => {
            builder.with_sse_kms_encryption(key).with_bucket_key(*bucket_key)
        }
        Some(Encryption::Kms { key: None, bucket_key }) => {
            builder.with_config(encryption_key(), "aws:kms").with_bucket_key(*bucket_key)
        }
    };
    Ok(Arc::new(builder.build().map_err(|error| settings_error(&error))?))
}

fn encryption_key() -> AmazonS3ConfigKey {
    "aws_server_side_encryption".parse().expect("object_store knows the key")
}

/// object_store takes an endpoint as it is.
fn virtual_host(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
        None => endpoint.to_owned(),
    }
}

fn microsoft(
    settings: &Azure,
    endpoint: Option<&String>,
    patience: Patience,
) -> Result<Arc<dyn Remote>, StoreError> {
    let mut builder = match &settings.credentials {
        // object_store knows the variables that AKS puts into a pod.
        AzureCredentials::Environment { client_id } => {
            let builder = MicrosoftAzureBuilder::from_env();
            match client_id {
                Some(id) => builder.with_client_id(id),
                None => builder,
            }
        }
        AzureCredentials::Key(key) => MicrosoftAzureBuilder::new().with_access_key(key),
        AzureCredentials::Sas(sas) => {
            let pairs: Vec<(String, String)> =
                form_urlencoded::parse(sas.trim_start_matches('?').as_bytes()).into_owned().collect();
            MicrosoftAzureBuilder::new().with_sas_authorization(pairs)
        }
    };
    builder = builder
        .with_account(&settings.account)
        .with_container_name(&settings.container)
        .with_disable_tagging(true)
        .with_client_options(options(endpoint, settings.ca_file.as_ref())?)
        .with_retry(retry(patience))
        .with_http_connector(Connector { patience });
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    Ok(Arc::new(builder.build().map_err(|error| settings_error(&error))?))
}

fn google(
    settings: &Gcs,
    endpoint: Option<&String>,
    patience: Patience,
) -> Result<Arc<dyn Remote>, StoreError> {
    let mut builder = match &settings.service_account_file {
        Some(file) => {
            GoogleCloudStorageBuilder::new().with_service_account_path(file.to_string_lossy().into_owned())
        }
        None => GoogleCloudStorageBuilder::from_env(),
    };
    builder = builder
        .with_bucket_name(&settings.bucket)
        .with_client_options(options(endpoint, settings.ca_file.as_ref())?)
        .with_retry(retry(patience))
        .with_http_connector(Connector { patience });
    if let Some(endpoint) = endpoint {
        builder = builder.with_base_url(endpoint);
    }
    Ok(Arc::new(builder.build().map_err(|error| settings_error(&error))?))
}

fn options(endpoint: Option<&String>, ca_file: Option<&PathBuf>) -> Result<ClientOptions, StoreError> {
    let mut options = ClientOptions::new()
        // Time is bounded request by request, and bodies by their silence.
        .with_timeout_disabled()
        .with_connect_timeout(CONNECT_WITHIN)
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")));
    if let Some(file) = ca_file {
        let text = read_certificates(file)?;
        let certificates = Certificate::from_pem_bundle(&text).map_err(|error| unreadable(file, &error))?;
        for certificate in certificates {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

/// The certificates in a file, PEM.
pub(crate) fn read_certificates(file: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(file).map_err(|error| unreadable(file, &error))
}

fn unreadable(file: &Path, error: &dyn fmt::Display) -> StoreError {
    StoreError::Settings(format!("cannot read the certificates in {}: {error}", file.display()))
}

fn retry(patience: Patience) -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        base: 2.0,
    };
    // Time is the bound: ten tries may be over in three seconds.
    RetryConfig { backoff, max_retries: 1_000, retry_timeout: patience.retry_for }
}

fn settings_error(error: &object_store::Error) -> StoreError {
    StoreError::Settings(format!("the settings of the object store do not fit: {error}"))
}
