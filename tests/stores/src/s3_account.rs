//! The account of a test at an S3 server: the client it uses behind the back of the one under test.

use http::StatusCode;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsAuthorizer, AwsCredential};

use crate::client::{self, Straight};

/// Where S3 servers without regions say they are.
pub(crate) const REGION: &str = "us-east-1";

pub(crate) struct S3Account {
    pub(crate) endpoint: String,
    pub(crate) access_key: &'static str,
    pub(crate) secret_key: &'static str,
}

impl S3Account {
    pub(crate) fn client(&self, bucket: &str) -> AmazonS3 {
        let client = AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_region(REGION)
            .with_access_key_id(self.access_key)
            .with_secret_access_key(self.secret_key)
            .with_bucket_name(bucket)
            // Deleting in bulk needs a checksum header, which not every server takes.
            .with_disable_bulk_delete(true)
            .with_http_connector(Straight);
        client.build().expect("an address and keys are all it needs")
    }

    pub(crate) async fn create_bucket(&self, bucket: &str) {
        let (status, said) = self.send("PUT", &format!("/{bucket}")).await;
        assert!(status.is_success(), "create {bucket}: {status} {said}");
    }

    /// Deletes a bucket, of a server that does not ask for it to be empty.
    pub(crate) async fn remove_bucket(&self, bucket: &str) {
        let (status, said) = self.send("DELETE", &format!("/{bucket}")).await;
        assert!(status.is_success(), "delete {bucket}: {status} {said}");
    }

    /// Counts up to 1,000 uploads.
    pub(crate) async fn open_multiparts(&self, bucket: &str) -> usize {
        let (status, said) = self.send("GET", &format!("/{bucket}?uploads=")).await;
        assert!(status.is_success(), "list the uploads of {bucket}: {status} {said}");
        said.matches("<Upload>").count()
    }

    /// Sends a signed request without a body.
    pub(crate) async fn send(&self, method: &str, path: &str) -> (StatusCode, String) {
        let mut request = client::request(method, &format!("{}{path}", self.endpoint));
        let credential = AwsCredential {
            key_id: self.access_key.to_owned(),
            secret_key: self.secret_key.to_owned(),
            token: None,
        };
        let authorizer = AwsAuthorizer::new(&credential, "s3", REGION);
        authorizer.try_authorize(&mut request, None).expect("a request can be signed");
        client::send(request).await
    }
}
