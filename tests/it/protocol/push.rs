//! Pushing blobs: every way a client has of sending bytes, and how uploads are refused.

use crate::{
    harness::content::{bytes, sha256, sha512},
    protocol::wire::{chunked, on_each_database, with_digest},
};

const EMPTY: &[u8] = b"";

#[tokio::test]
async fn an_upload_begins_with_a_relative_location_and_the_chunk_size_to_send() {
    on_each_database(async |berth| {
        let begun = berth.ask("POST", "/v2/team/app/blobs/uploads/").await;

        begun.is(202).stands_at(0);
        let location = begun.header("location");
        assert!(location.starts_with("/v2/team/app/blobs/uploads/"), "{location}");
        assert!(location.ends_with(begun.header("docker-upload-uuid")));
        assert_eq!(begun.header("oci-chunk-min-length"), "1048576");
        assert_eq!(begun.header("docker-distribution-api-version"), "registry/2.0");
        assert_eq!(berth.ask("GET", location).await.is(204).header("location"), location);
    })
    .await;
}

#[tokio::test]
async fn docker_streams_one_chunk_without_a_length_and_ends_with_an_empty_put() {
    on_each_database(async |berth| {
        let content = bytes(1, 300_000);
        let location = berth.begin("team/app").await;

        let patched = berth.send("PATCH", &location, &[], chunked(&content)).await;
        patched.is(202).stands_at(content.len());
        let finish = with_digest(patched.header("location"), &sha256(&content));
        let finished = berth.ask("PUT", &finish).await;

        finished.is(201);
        assert_eq!(finished.header("docker-content-digest"), sha256(&content));
        assert_eq!(finished.header("location"), format!("/v2/team/app/blobs/{}", sha256(&content)));
        assert_eq!(berth.ask("GET", finished.header("location")).await.is(200).body, content);
        berth.ask("GET", &location).await.is_refused(404, "BLOB_UPLOAD_UNKNOWN");
    })
    .await;
}

#[tokio::test]
async fn containerd_sends_the_whole_blob_with_the_put() {
    on_each_database(async |berth| {
        for body in [|content: &[u8]| content.to_vec().into(), chunked] {
            let content = bytes(2, 300_000);
            let finish = with_digest(&berth.begin("team/app").await, &sha256(&content));

            let finished = berth.send("PUT", &finish, &[], body(&content)).await;

            assert_eq!(finished.is(201).header("docker-content-digest"), sha256(&content));
            assert_eq!(berth.repository("team/app").blob(&sha256(&content)).await, content);
        }
    })
    .await;
}

#[tokio::test]
async fn a_blob_may_come_with_a_single_post() {
    on_each_database(async |berth| {
        for content in [bytes(3, 100_000), EMPTY.to_vec(), b"{}".to_vec()] {
            for digest in [sha256(&content), sha512(&content)] {
                let path = format!("/v2/team/app/blobs/uploads/?digest={digest}");

                let created = berth.send("POST", &path, &[], content.clone()).await;

                assert_eq!(created.is(201).header("docker-content-digest"), digest);
                assert_eq!(created.header("location"), format!("/v2/team/app/blobs/{digest}"));
                assert_eq!(berth.repository("team/app").blob(&digest).await, content);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_single_post_with_the_wrong_digest_leaves_nothing() {
    on_each_database(async |berth| {
        let wrong = sha256(b"other bytes");
        let path = format!("/v2/team/app/blobs/uploads/?digest={wrong}");

        berth.send("POST", &path, &[], "some bytes").await.is_refused(400, "DIGEST_INVALID");

        berth.ask("HEAD", &format!("/v2/team/app/blobs/{wrong}")).await.is(404);
        let right = sha256(b"some bytes");
        berth.ask("HEAD", &format!("/v2/team/app/blobs/{right}")).await.is(404);
    })
    .await;
}

#[tokio::test]
async fn regctl_sends_chunks_with_their_ranges_and_may_put_the_last() {
    on_each_database(async |berth| {
        let content = bytes(4, 250_000);
        let location = berth.begin("team/app").await;

        let first =
            berth.send("PATCH", &location, &[("content-range", "0-99999")], content[..100_000].to_vec());
        first.await.is(202).stands_at(100_000);
        let second = berth.send(
            "PATCH",
            &location,
            &[("content-range", "100000-199999")],
            chunked(&content[100_000..200_000]),
        );
        second.await.is(202).stands_at(200_000);
        let finish = with_digest(&location, &sha256(&content));
        let finished = berth
            .send("PUT", &finish, &[("content-range", "200000-249999")], content[200_000..].to_vec())
            .await;

        finished.is(201);
        assert_eq!(berth.repository("team/app").blob(&sha256(&content)).await, content);
    })
    .await;
}

#[tokio::test]
async fn a_chunk_out_of_order_is_refused_and_told_where_to_begin() {
    on_each_database(async |berth| {
        let content = bytes(5, 3000);
        let location = berth.begin("team/app").await;
        berth.send("PATCH", &location, &[], content[..1000].to_vec()).await.is(202);
        let finish = with_digest(&location, &sha256(&content));

        for range in ["0-999", "500-1499", "1001-2000", "2000-2999"] {
            for (method, path) in [("PATCH", &location), ("PUT", &finish)] {
                let answer = berth.send(method, path, &[("content-range", range)], bytes(6, 1000)).await;
                answer.is_refused(416, "BLOB_UPLOAD_INVALID").stands_at(1000);
                assert_eq!(answer.header("location"), location);
            }
        }

        berth.ask("GET", &location).await.is(204).stands_at(1000);
        berth.send("PUT", &finish, &[("content-range", "1000-2999")], content[1000..].to_vec()).await.is(201);
        assert_eq!(berth.repository("team/app").blob(&sha256(&content)).await, content);
    })
    .await;
}

#[tokio::test]
async fn a_chunk_that_is_not_what_it_says_is_not_taken() {
    on_each_database(async |berth| {
        let location = berth.begin("team/app").await;
        berth.send("PATCH", &location, &[], "12345").await.is(202);

        for (range, body, code) in [
            // More and fewer bytes than the range has, with and without a length.
            ("5-9", b"123".to_vec().into(), "SIZE_INVALID"),
            ("5-9", b"1234567".to_vec().into(), "SIZE_INVALID"),
            ("5-9", chunked(b"123"), "SIZE_INVALID"),
            ("5-9", chunked(b"1234567"), "SIZE_INVALID"),
            ("5-9", EMPTY.into(), "SIZE_INVALID"),
            ("5-9", chunked(EMPTY), "SIZE_INVALID"),
            ("bytes=5-7", b"123".to_vec().into(), "RANGE_INVALID"),
            ("bytes 5-7/8", b"123".to_vec().into(), "RANGE_INVALID"),
            ("5-7/8", b"123".to_vec().into(), "RANGE_INVALID"),
            ("7-5", b"123".to_vec().into(), "RANGE_INVALID"),
            ("-5", b"123".to_vec().into(), "RANGE_INVALID"),
            ("5-", b"123".to_vec().into(), "RANGE_INVALID"),
            ("5-18446744073709551616", b"123".to_vec().into(), "RANGE_INVALID"),
            ("five", b"123".to_vec().into(), "RANGE_INVALID"),
        ] {
            let body: reqwest::Body = body;
            let answer = berth.send("PATCH", &location, &[("content-range", range)], body).await;
            answer.is_refused(400, code);
            berth.ask("GET", &location).await.is(204).stands_at(5);
        }

        let finish = with_digest(&location, &sha256(b"12345678"));
        berth.send("PUT", &finish, &[("content-range", "5-7")], "678").await.is(201);
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_upload_is_gone() {
    on_each_database(async |berth| {
        let location = berth.begin("team/app").await;
        berth.send("PATCH", &location, &[], "some bytes").await.is(202);

        berth.ask("DELETE", &location).await.is(204);

        let finish = with_digest(&location, &sha256(b"some bytes"));
        berth.ask("GET", &location).await.is_refused(404, "BLOB_UPLOAD_UNKNOWN");
        berth.send("PATCH", &location, &[], "more").await.is_refused(404, "BLOB_UPLOAD_UNKNOWN");
        berth.ask("PUT", &finish).await.is_refused(404, "BLOB_UPLOAD_UNKNOWN");
        berth.ask("DELETE", &location).await.is_refused(404, "BLOB_UPLOAD_UNKNOWN");
    })
    .await;
}

#[tokio::test]
async fn a_blob_may_be_named_by_sha512_from_the_start_or_only_at_the_end() {
    on_each_database(async |berth| {
        for (seed, query) in [(7, "?digest-algorithm=sha512"), (8, ""), (9, "?digest-algorithm=sha256")] {
            let content = bytes(seed, 200_000);
            let begun = berth.ask("POST", &format!("/v2/team/app/blobs/uploads/{query}")).await;
            let location = begun.is(202).header("location").to_owned();
            berth.send("PATCH", &location, &[], content[..70_000].to_vec()).await.is(202);

            let finish = with_digest(&location, &sha512(&content));
            let finished = berth.send("PUT", &finish, &[], content[70_000..].to_vec()).await;

            assert_eq!(finished.is(201).header("docker-content-digest"), sha512(&content));
            assert_eq!(berth.repository("team/app").blob(&sha512(&content)).await, content);
            // It was pushed under the one name, and has no other.
            berth.ask("HEAD", &format!("/v2/team/app/blobs/{}", sha256(&content))).await.is(404);
        }
        let unknown = berth.ask("POST", "/v2/team/app/blobs/uploads/?digest-algorithm=md5").await;
        unknown.is_refused(400, "DIGEST_INVALID");
    })
    .await;
}

#[tokio::test]
async fn after_a_wrong_digest_the_upload_can_still_be_finished() {
    on_each_database(async |berth| {
        for (seed, query, wrong) in [
            (10, "", sha256(b"wrong")),
            (11, "", sha512(b"wrong")),
            (12, "?digest-algorithm=sha512", sha512(b"wrong")),
            (13, "?digest-algorithm=sha512", sha256(b"wrong")),
        ] {
            let content = bytes(seed, 50_000);
            let begun = berth.ask("POST", &format!("/v2/team/app/blobs/uploads/{query}")).await;
            let location = begun.is(202).header("location").to_owned();
            berth.send("PATCH", &location, &[], content[..20_000].to_vec()).await.is(202);

            berth.ask("PUT", &with_digest(&location, &wrong)).await.is_refused(400, "DIGEST_INVALID");

            berth.ask("HEAD", &format!("/v2/team/app/blobs/{wrong}")).await.is(404);
            berth.ask("GET", &location).await.is(204).stands_at(20_000);
            berth.send("PATCH", &location, &[], content[20_000..].to_vec()).await.is(202).stands_at(50_000);
            berth.ask("PUT", &with_digest(&location, &sha256(&content))).await.is(201);
            assert_eq!(berth.repository("team/app").blob(&sha256(&content)).await, content);
        }
    })
    .await;
}

#[tokio::test]
async fn an_upload_cannot_be_finished_without_a_good_digest() {
    on_each_database(async |berth| {
        let location = berth.begin("team/app").await;
        let upper = sha256(b"some bytes").to_uppercase();
        for query in [
            "",
            "?digest=",
            "?digest=sha256:abc",
            &format!("?digest={upper}"),
            "?digest=md5:d41d8cd98f00b204e9800998ecf8427e",
        ] {
            let answer = berth.send("PUT", &format!("{location}{query}"), &[], "some bytes").await;
            answer.is_refused(400, "DIGEST_INVALID");
            berth.ask("GET", &location).await.is(204).stands_at(0);
        }
    })
    .await;
}

#[tokio::test]
async fn a_blob_is_mounted_from_the_repository_that_is_named_or_from_any() {
    on_each_database(async |berth| {
        let digest = berth.repository("team/base").push_blob(b"shared bytes").await;
        for (to, from) in [("team/one", "&from=team/base"), ("team/two", "")] {
            let path = format!("/v2/{to}/blobs/uploads/?mount={digest}{from}");

            let mounted = berth.ask("POST", &path).await;

            assert_eq!(mounted.is(201).header("location"), format!("/v2/{to}/blobs/{digest}"));
            assert_eq!(mounted.header("docker-content-digest"), digest);
            assert_eq!(berth.repository(to).blob(&digest).await, b"shared bytes");
        }
    })
    .await;
}

#[tokio::test]
async fn a_mount_that_cannot_be_is_an_upload() {
    on_each_database(async |berth| {
        let known = berth.repository("team/base").push_blob(b"shared bytes").await;
        let unknown = sha256(b"nobody has these");
        for query in [
            format!("mount={unknown}"),
            format!("mount={unknown}&from=team/base"),
            format!("mount={known}&from=team/other"),
            format!("mount={known}&from=../base"),
            format!("mount={known}&from="),
        ] {
            let answer = berth.ask("POST", &format!("/v2/team/app/blobs/uploads/?{query}")).await;

            let location = answer.is(202).header("location");
            let finish = with_digest(location, &sha256(query.as_bytes()));
            berth.send("PUT", &finish, &[], query.clone()).await.is(201);
        }
        let bad = berth.ask("POST", "/v2/team/app/blobs/uploads/?mount=sha256:abc").await;
        bad.is_refused(400, "DIGEST_INVALID");
    })
    .await;
}

#[tokio::test]
async fn a_blob_deleted_in_one_repository_stays_in_another() {
    on_each_database(async |berth| {
        for name in ["team/one", "team/two"] {
            berth.repository(name).push_blob(b"shared bytes").await;
        }
        let digest = sha256(b"shared bytes");
        let one = format!("/v2/team/one/blobs/{digest}");

        berth.ask("DELETE", &one).await.is(202);

        berth.ask("HEAD", &one).await.is(404);
        berth.ask("GET", &one).await.is_refused(404, "BLOB_UNKNOWN");
        berth.ask("DELETE", &one).await.is_refused(404, "BLOB_UNKNOWN");
        assert_eq!(berth.repository("team/two").blob(&digest).await, b"shared bytes");
    })
    .await;
}
