// Takes the official OpenFGA JavaScript SDK through every operation of the API against
// the server at GRANTLOG_SERVER, a fresh one, and asserts what it answers, errors too.
// It ends with status 0 and the line "18 operations", or with the first thing that is
// not as the API says.

import assert from "node:assert/strict";
import axios from "axios";
import {
  ClientWriteRequestOnDuplicateWrites,
  ClientWriteRequestOnMissingDeletes,
  ConsistencyPreference,
  FgaApiNotFoundError,
  FgaApiValidationError,
  OpenFgaClient,
} from "@openfga/sdk";

const apiUrl = process.env.GRANTLOG_SERVER;
assert.ok(apiUrl, "GRANTLOG_SERVER must name the server");

// All operations, as requests. What the SDK really sent is crossed off.
const outstanding = new Set([
  "POST /stores", "GET /stores", "GET /stores/S", "DELETE /stores/S",
  "POST /stores/S/authorization-models", "GET /stores/S/authorization-models", "GET /stores/S/authorization-models/M",
  "POST /stores/S/write", "POST /stores/S/read", "GET /stores/S/changes",
  "POST /stores/S/check", "POST /stores/S/batch-check",
  "POST /stores/S/list-objects", "POST /stores/S/streamed-list-objects", "POST /stores/S/list-users", "POST /stores/S/expand",
  "PUT /stores/S/assertions/M", "GET /stores/S/assertions/M",
]);
const operations = outstanding.size;

const http = axios.create();
let last; // the last response, whatever its status
const crossOff = (response) => {
  last = response;
  const path = new URL(response.config.url).pathname.split("/");
  if (path[2]) path[2] = "S";
  if (path[4]) path[4] = "M";
  outstanding.delete(`${response.config.method.toUpperCase()} ${path.join("/")}`);
};
http.interceptors.response.use(
  (response) => { crossOff(response); return response; },
  (error) => { if (error.response) crossOff(error.response); return Promise.reject(error); },
);

const client = (params) => new OpenFgaClient({ apiUrl, retryParams: { maxRetry: 0 }, ...params }, http);
const ulid = /^[0-9A-HJKMNP-TV-Z]{26}$/;
const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;

// refused asserts that a call fails with the SDK's class of error and the API's code,
// and that the message names what is wrong.
async function refused(call, kind, code, message) {
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof kind, `${error.name}: ${error.message}; want a ${kind.name}`);
    assert.equal(error.apiErrorCode, code, error.apiErrorMessage);
    assert.match(error.apiErrorMessage, message);
    return true;
  });
}
const invalid = (call, code, message) => refused(call, FgaApiValidationError, code, message);
const notFound = (call, code, message) => refused(call, FgaApiNotFoundError, code, message);

const tuple = (user, relation, object) => ({ user, relation, object });
const key = (t) => `${t.user} ${t.relation} ${t.object}`;

// Stores.
let fga = client();
const created = await fga.createStore({ name: "acme documents" });
assert.match(created.id, ulid);
assert.equal(created.name, "acme documents");
assert.match(created.created_at, time);
assert.match(created.updated_at, time);
assert.equal(last.status, 201);
const storeId = created.id;
const other = await fga.createStore({ name: "another one" });

fga = client({ storeId });
const got = await fga.getStore();
assert.equal(got.id, storeId);
assert.equal(got.name, "acme documents");

let stores = await fga.listStores({ name: "acme documents" });
assert.deepEqual(stores.stores.map((s) => s.id), [storeId]);
assert.equal(stores.continuation_token, "");
const all = [];
for (let continuationToken; ;) {
  stores = await fga.listStores({ pageSize: 1, continuationToken });
  assert.ok(stores.stores.length <= 1);
  all.push(...stores.stores.map((s) => s.id));
  continuationToken = stores.continuation_token;
  if (!continuationToken) break;
}
assert.deepEqual(all.toSorted(), [storeId, other.id].toSorted());

await invalid(fga.createStore({ name: "x" }), "validation_error", /[Nn]ame/);
await notFound(client({ storeId: "01HZZZZZZZZZZZZZZZZZZZZZZZ" }).getStore(), "store_id_not_found", /./);

// Models.
await invalid(fga.check(tuple("user:anne", "viewer", "document:plan")), "latest_authorization_model_not_found", /./);
assert.deepEqual((await fga.readAuthorizationModels()).authorization_models, []);
const model = {
  schema_version: "1.1",
  type_definitions: [
    { type: "user" },
    {
      type: "group",
      relations: { member: { this: {} } },
      metadata: { relations: { member: { directly_related_user_types: [{ type: "user" }] } } },
    },
    {
      type: "document",
      relations: {
        owner: { this: {} },
        viewer: { union: { child: [{ this: {} }, { computedUserset: { relation: "owner" } }] } },
      },
      metadata: {
        relations: {
          owner: { directly_related_user_types: [{ type: "user" }] },
          viewer: {
            directly_related_user_types: [
              { type: "user" }, { type: "user", wildcard: {} }, { type: "user", condition: "office_hours" },
              { type: "group", relation: "member" },
            ],
          },
        },
      },
    },
  ],
  conditions: {
    office_hours: {
      name: "office_hours",
      expression: "hour >= opens",
      parameters: { hour: { type_name: "TYPE_NAME_INT" }, opens: { type_name: "TYPE_NAME_INT" } },
    },
  },
};
const firstModel = (await fga.writeAuthorizationModel(model)).authorization_model_id;
assert.match(firstModel, ulid);
assert.equal(last.status, 201);
const secondModel = (await fga.writeAuthorizationModel({
  ...model,
  type_definitions: model.type_definitions.map((t) => (t.type !== "document" ? t : {
    ...t, relations: { ...t.relations, viewer: { this: {} } }, // an owner is no viewer any more
  })),
})).authorization_model_id;

const read = (await fga.readAuthorizationModel({ authorizationModelId: firstModel })).authorization_model;
assert.equal(read.id, firstModel);
assert.equal(read.schema_version, "1.1");
assert.deepEqual(read.type_definitions.map((t) => t.type), ["user", "group", "document"]);
assert.equal(read.type_definitions[2].relations.viewer.union.child[1].computedUserset.relation, "owner");
assert.equal(read.conditions.office_hours.expression, "hour >= opens");
assert.equal((await fga.readLatestAuthorizationModel()).authorization_model.id, secondModel);
let models = await fga.readAuthorizationModels({ pageSize: 1 });
assert.deepEqual(models.authorization_models.map((m) => m.id), [secondModel]);
models = await fga.readAuthorizationModels({ pageSize: 1, continuationToken: models.continuation_token });
assert.deepEqual(models.authorization_models.map((m) => m.id), [firstModel]);

await invalid(fga.writeAuthorizationModel({ schema_version: "1.1", type_definitions: [{ type: "document", relations: { viewer: { computedUserset: { relation: "nobody" } } } }] }),
  "invalid_authorization_model", /nobody/);
await invalid(fga.readAuthorizationModel({ authorizationModelId: "01HZZZZZZZZZZZZZZZZZZZZZZZ" }), "authorization_model_not_found", /./);

// Write and Read, under the first model from here on.
fga = client({ storeId, authorizationModelId: firstModel });
await fga.write({
  writes: [
    tuple("user:anne", "owner", "document:plan"),
    tuple("user:bob", "member", "group:eng"),
    tuple("group:eng#member", "viewer", "document:plan"),
    { ...tuple("user:cat", "viewer", "document:plan"), condition: { name: "office_hours", context: { opens: 9 } } },
    tuple("user:*", "viewer", "document:public"),
  ],
});
const duplicate = { writes: [tuple("user:anne", "owner", "document:plan")] };
await invalid(fga.write(duplicate), "write_failed_due_to_invalid_input", /user:anne|document:plan/);
await fga.write(duplicate, { conflict: { onDuplicateWrites: ClientWriteRequestOnDuplicateWrites.Ignore } });
const missing = { deletes: [tuple("user:zoe", "owner", "document:plan")] };
await invalid(fga.write(missing), "write_failed_due_to_invalid_input", /user:zoe|document:plan/);
await fga.write(missing, { conflict: { onMissingDeletes: ClientWriteRequestOnMissingDeletes.Ignore } });
await invalid(fga.write({ writes: [tuple("user:x", "owner", "document:x"), tuple("user:x", "owner", "document:x")] }), "cannot_allow_duplicate_tuples_in_one_request", /./);
await invalid(fga.write({ writes: [tuple("group:eng", "owner", "document:x")] }), "validation_error", /./);
await invalid(fga.write({ writes: [tuple("user:x", "owner", "folder:x")] }), "validation_error", /folder/);
await invalid(fga.write({ writes: Array.from({ length: 101 }, (_, i) => tuple(`user:${i}`, "owner", "document:many")) }), "exceeded_entity_limit", /100/);

// What was granted when a write failed as a whole: nothing of it.
const mixed = await fga.write({ writes: [tuple("user:dan", "owner", "document:plan"), tuple("user:anne", "owner", "document:plan")] },
  { transaction: { disable: true } });
assert.deepEqual(mixed.writes.map((w) => [key(w.tuple_key), w.status]).toSorted(),
  [["user:anne owner document:plan", "failure"], ["user:dan owner document:plan", "success"]]);
await fga.deleteTuples([tuple("user:dan", "owner", "document:plan")]);

let page = await fga.read(tuple(undefined, undefined, "document:plan"), { pageSize: 2 });
assert.equal(page.tuples.length, 2);
assert.match(page.tuples[0].timestamp, time);
const tuples = [...page.tuples];
while (page.continuation_token) {
  page = await fga.read(tuple(undefined, undefined, "document:plan"), { pageSize: 2, continuationToken: page.continuation_token });
  tuples.push(...page.tuples);
}
assert.deepEqual(tuples.map((t) => key(t.key)).toSorted(),
  ["group:eng#member viewer document:plan", "user:anne owner document:plan", "user:cat viewer document:plan"]);
assert.deepEqual(tuples.find((t) => t.key.user === "user:cat").key.condition, { name: "office_hours", context: { opens: 9 } });
assert.equal((await fga.read({})).tuples.length, 5);
await invalid(fga.read({}, { continuationToken: "bm90IGEgdG9rZW4=" }), "invalid_continuation_token", /./);

const changes = [];
let token;
for (let n = 0; n < 20; n++) {
  const r = await fga.readChanges(undefined, { pageSize: 3, continuationToken: token });
  if (r.changes.length === 0) break;
  changes.push(...r.changes);
  token = r.continuation_token;
}
assert.deepEqual(changes.map((c) => `${c.operation === "TUPLE_OPERATION_DELETE" ? "-" : "+"} ${key(c.tuple_key)}`), [
  "+ user:anne owner document:plan",
  "+ user:bob member group:eng",
  "+ group:eng#member viewer document:plan",
  "+ user:cat viewer document:plan",
  "+ user:* viewer document:public",
  "+ user:dan owner document:plan",
  "- user:dan owner document:plan",
]);
assert.match(changes[0].timestamp, time);
assert.deepEqual((await fga.readChanges({ type: "group" })).changes.map((c) => key(c.tuple_key)), ["user:bob member group:eng"]);

// Check.
const allowed = async (user, relation, object, more = {}, options = {}) => (await fga.check({ user, relation, object, ...more }, options)).allowed;
assert.equal(await allowed("user:anne", "viewer", "document:plan"), true);
assert.equal(await allowed("user:bob", "viewer", "document:plan", {}, { consistency: ConsistencyPreference.HigherConsistency }), true);
assert.strictEqual(await allowed("user:zoe", "viewer", "document:plan"), false);
assert.equal(await allowed("user:zoe", "viewer", "document:public"), true);
assert.equal(await allowed("user:cat", "viewer", "document:plan", { context: { hour: 10 } }), true);
assert.equal(await allowed("user:cat", "viewer", "document:plan", { context: { hour: 8 } }), false);
assert.equal(await allowed("user:zoe", "viewer", "document:plan", { contextualTuples: [tuple("user:zoe", "member", "group:eng")] }), true);
assert.equal(await allowed("user:anne", "viewer", "document:plan", {}, { authorizationModelId: secondModel }), false);
await invalid(fga.check(tuple("user:anne", "editor", "document:plan")), "validation_error", /editor/);
await invalid(fga.check(tuple("anne", "viewer", "document:plan")), "validation_error", /user/);
await invalid(fga.check(tuple("user:anne", "viewer", "document:plan"), { authorizationModelId: "01HZZZZZZZZZZZZZZZZZZZZZZZ" }), "authorization_model_not_found", /./);

// BatchCheck: an error is of its item alone.
const batch = (await fga.batchCheck({
  checks: [
    { ...tuple("user:anne", "viewer", "document:plan"), correlationId: "yes" },
    { ...tuple("user:zoe", "viewer", "document:plan"), correlationId: "no" },
    { ...tuple("user:zoe", "viewer", "document:plan"), correlationId: "contextual", contextualTuples: { tuple_keys: [tuple("user:zoe", "member", "group:eng")] } },
    { ...tuple("user:cat", "viewer", "document:plan"), correlationId: "hour", context: { hour: 10 } },
    { ...tuple("user:anne", "editor", "document:plan"), correlationId: "wrong" },
  ],
})).result;
assert.deepEqual(Object.fromEntries(batch.map((r) => [r.correlationId, r.error ? r.error.input_error : r.allowed])),
  { yes: true, no: false, contextual: true, hour: true, wrong: "validation_error" });
assert.deepEqual((await fga.listRelations({ user: "user:anne", object: "document:plan", relations: ["owner", "viewer"] })).relations.toSorted(), ["owner", "viewer"]); // the SDK asks them in parallel

// Lists and trees.
const question = { user: "user:anne", relation: "viewer", type: "document", context: { hour: 10 } };
assert.deepEqual((await fga.listObjects(question)).objects.toSorted(), ["document:plan", "document:public"]);
assert.deepEqual((await fga.listObjects({ ...question, user: "user:zoe", relation: "owner" })).objects, []);
assert.deepEqual((await fga.listObjects({ ...question, user: "user:zoe", contextualTuples: [tuple("user:zoe", "owner", "document:new")] })).objects.toSorted(),
  ["document:new", "document:public"]);
await invalid(fga.listObjects({ ...question, type: "folder" }), "type_not_found", /folder/);
const streamed = [];
for await (const r of fga.streamedListObjects(question)) streamed.push(r.object);
assert.deepEqual(streamed.toSorted(), ["document:plan", "document:public"]);

const users = (await fga.listUsers({
  object: { type: "document", id: "plan" }, relation: "viewer", user_filters: [{ type: "user" }], context: { hour: 10 },
  contextualTuples: [tuple("user:dan", "member", "group:eng")],
})).users;
assert.deepEqual(users.map((u) => u.object.id).toSorted(), ["anne", "bob", "cat", "dan"]);
assert.deepEqual((await fga.listUsers({ object: { type: "document", id: "public" }, relation: "viewer", user_filters: [{ type: "user" }] })).users,
  [{ wildcard: { type: "user" } }]);

const tree = (await fga.expand({ object: "document:plan", relation: "viewer" })).tree;
assert.equal(tree.root.name, "document:plan#viewer");
assert.equal(tree.root.union.nodes.length, 2);
assert.deepEqual(tree.root.union.nodes[0].leaf.users.users.toSorted(), ["group:eng#member", "user:cat"]);
assert.equal(tree.root.union.nodes[1].leaf.computed.userset, "document:plan#owner");

// Assertions.
assert.deepEqual((await fga.readAssertions()).assertions, []);
await fga.writeAssertions([
  { ...tuple("user:anne", "viewer", "document:plan"), expectation: true },
  { ...tuple("user:zoe", "viewer", "document:plan"), expectation: false },
]);
assert.equal(last.status, 204);
const assertions = await fga.readAssertions();
assert.equal(assertions.authorization_model_id, firstModel);
assert.deepEqual(assertions.assertions.map((a) => [key(a.tuple_key), a.expectation]),
  [["user:anne viewer document:plan", true], ["user:zoe viewer document:plan", false]]);

// A deleted store is gone.
await fga.deleteStore();
assert.equal(last.status, 204);
await notFound(fga.getStore(), "store_id_not_found", /./);
await notFound(fga.check(tuple("user:anne", "viewer", "document:plan")), "store_id_not_found", /./);

assert.deepEqual([...outstanding], [], "operations that were never called");
console.log(`${operations} operations`);
