//! What only Amazon's own library gives: its whole chain of credentials, and a look at the bucket.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Credentials as AmazonCredentials, ProvideCredentials, RequestChecksumCalculation,
    ResponseChecksumValidation, SharedCredentialsProvider,
};
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::types::ExpirationStatus;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider as Tls, TlsContext, TrustStore};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::StoreError;
use crate::cloud::{CONNECT_WITHIN, Patience, S3, S3Credentials, read_certificates};

/// So long before they end, credentials are asked for anew.
const REFRESH_BEFORE: Duration = Duration::from_mins(5);
/// How long credentials are kept that say nothing of an end.
const KEEP_FOR: Duration = Duration::from_mins(5);

/// What the environment says of region and credentials.
#[derive(Debug)]
pub(crate) struct Session {
    config: SdkConfig,
    /// Those of the chain; none where an access key is configured.
    credentials: Option<Arc<Credentials>>,
}

impl Session {
    pub(crate) async fn load(settings: &S3, patience: Patience) -> Result<Self, StoreError> {
        let config = load(settings, patience).await?;
        let credentials = match &settings.credentials {
            S3Credentials::Chain { .. } => Some(Arc::new(Credentials::new(&config, patience)?)),
            S3Credentials::Key { .. } => None,
        };
        Ok(Self { config, credentials })
    }

    pub(crate) fn region(&self) -> Option<String> {
        self.config.region().map(ToString::to_string)
    }

    pub(crate) fn credentials(&self) -> Option<Arc<Credentials>> {
        self.credentials.clone()
    }
}

async fn load(settings: &S3, patience: Patience) -> Result<SdkConfig, StoreError> {
    let limits = TimeoutConfig::builder().connect_timeout(CONNECT_WITHIN).read_timeout(patience.read);
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).timeout_config(limits.build());
    if let Some(file) = &settings.ca_file {
        let trusted = TrustStore::default().with_pem_certificate(read_certificates(file)?);
        let context = TlsContext::builder().with_trust_store(trusted).build();
        let context = context.map_err(|error| StoreError::Settings(error.to_string()))?;
        let client = Builder::new().tls_provider(Tls::Rustls(CryptoMode::AwsLc)).tls_context(context);
        loader = loader.http_client(client.build_https());
    }
    if let Some(region) =
        settings.region.clone().or_else(|| settings.endpoint.as_ref().map(|_| "us-east-1".into()))
    {
        loader = loader.region(Region::new(region));
    }
    loader = match &settings.credentials {
        S3Credentials::Chain { profile: Some(profile) } => loader.profile_name(profile),
        S3Credentials::Chain { profile: None } => loader,
        S3Credentials::Key { id, secret } => {
            loader.credentials_provider(AmazonCredentials::new(id, secret, None, None, "configuration"))
        }
    };
    // Its future is large, and few wait for it.
    Ok(Box::pin(loader.load()).await)
}

/// Credentials of Amazon's chain, for object_store: kept until shortly before they end.
#[derive(Debug)]
pub(crate) struct Credentials {
    provider: SharedCredentialsProvider,
    patience: Patience,
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    credential: Arc<AwsCredential>,
    fresh_until: tokio::time::Instant,
    ends_at: Option<tokio::time::Instant>,
}

impl Credentials {
    fn new(config: &SdkConfig, patience: Patience) -> Result<Self, StoreError> {
        let provider = config
            .credentials_provider()
            .ok_or_else(|| StoreError::Settings("the environment has no credentials for S3".into()))?;
        Ok(Self { provider, patience, kept: Mutex::new(None) })
    }

    /// How long those live that sign now; `None` if they do not end.
    pub(crate) async fn time_left(&self) -> object_store::Result<Option<Duration>> {
        self.get_credential().await?;
        let now = tokio::time::Instant::now();
        let ends_at = self.kept.lock().await.as_ref().and_then(|kept| kept.ends_at);
        Ok(ends_at.map(|end| end.saturating_duration_since(now)))
    }
}

#[async_trait]
impl CredentialProvider for Credentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        // Who comes while they are fetched waits for the same answer.
        let mut kept = self.kept.lock().await;
        let now = tokio::time::Instant::now();
        if let Some(kept) = kept.as_ref()
            && now < kept.fresh_until
        {
            return Ok(Arc::clone(&kept.credential));
        }
        // The chain asks one after the other, and has no limit of its own for all of them.
        let limit = self.patience.retry_for;
        let found = timeout(limit, self.provider.provide_credentials()).await;
        let found = match found {
            Ok(found) => found.map_err(|error| DisplayErrorContext(error).to_string()),
            Err(_) => Err(format!("the environment gave no credentials for S3 within {limit:?}")),
        };
        match found {
            Ok(found) => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "when credentials end is told in wall-clock time"
                )]
                let left =
                    found.expiry().map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
                let credential = Arc::new(AwsCredential {
                    key_id: found.access_key_id().to_owned(),
                    secret_key: found.secret_access_key().to_owned(),
                    token: found.session_token().map(ToOwned::to_owned),
                });
                let fresh_for = left.map_or(KEEP_FOR, |left| {
                    // Short-lived ones, as in tests, are used for half their life.
                    left.saturating_sub(REFRESH_BEFORE).max(left / 2)
                });
                *kept = Some(Kept {
                    credential: Arc::clone(&credential),
                    fresh_until: now + fresh_for,
                    ends_at: left.map(|left| now + left),
                });
                Ok(credential)
            }
            Err(error) => {
                // While the old ones are good, trouble with new ones is not a client's.
                if let Some(kept) = kept.as_ref()
                    && kept.ends_at.is_none_or(|end| now < end)
                {
                    tracing::warn!(%error,
                        "could not refresh the credentials for S3; going on with those that are still good");
                    return Ok(Arc::clone(&kept.credential));
                }
                Err(object_store::Error::Generic { store: "S3", source: error.into() })
            }
        }
    }
}

/// A bucket, seen as object_store does not see it.
#[derive(Debug)]
pub(crate) struct Bucket {
    client: aws_sdk_s3::Client,
    name: String,
}

impl Bucket {
    pub(crate) fn new(settings: &S3, session: &Session) -> Self {
        let mut config = aws_sdk_s3::config::Builder::from(&session.config)
            .force_path_style(settings.path_style)
            // Others than Amazon may not know the checksums that it adds by itself.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = &settings.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Self { client: aws_sdk_s3::Client::from_conf(config.build()), name: settings.bucket.clone() }
    }

    /// The multipart uploads that were begun below a prefix, and neither completed nor aborted: the
    /// name of the object, and the id.
    pub(crate) async fn open_multiparts(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        let mut found = Vec::new();
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let listed = self.client.list_multipart_uploads().bucket(&self.name).prefix(prefix);
            let listed = listed.set_key_marker(key_marker).set_upload_id_marker(id_marker).send().await;
            let listed = listed.map_err(|error| StoreError::Remote {
                operation: "list multipart uploads",
                source: DisplayErrorContext(error).to_string().into(),
            })?;
            let uploads = listed.uploads().iter();
            found.extend(
                uploads.filter_map(|upload| Some((upload.key()?.to_owned(), upload.upload_id()?.to_owned()))),
            );
            if listed.is_truncated() != Some(true) || listed.next_key_marker().is_none() {
                return Ok(found);
            }
            key_marker = listed.next_key_marker().map(ToOwned::to_owned);
            id_marker = listed.next_upload_id_marker().map(ToOwned::to_owned);
        }
    }

    /// Whether the bucket aborts multipart uploads by itself that are not completed; `None` if it does
    /// not say, or may not be asked.
    pub(crate) async fn aborts_incomplete(&self) -> Option<bool> {
        let asked = self.client.get_bucket_lifecycle_configuration().bucket(&self.name).send().await;
        match asked {
            Ok(answer) => Some(answer.rules().iter().any(|rule| {
                rule.status() == &ExpirationStatus::Enabled
                    && rule.abort_incomplete_multipart_upload().is_some()
            })),
            Err(error) => match error.as_service_error()?.meta().code() {
                Some("NoSuchLifecycleConfiguration") => Some(false),
                _ => None,
            },
        }
    }
}
