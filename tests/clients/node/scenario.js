// The scenario of tests/clients by node-vault: one JSON line for each step.
//
// VAULT_ADDR and VAULT_TOKEN say where and who, as for any program that uses this client.
'use strict';

const vault = require('node-vault')();

const odd = process.argv[2];
const path = 'clients/node/one';
const plain = Buffer.from('plain').toString('base64');

// What callers write who know that node-vault puts paths into URLs as they are.
const encoded = odd.split('/').map(encodeURIComponent).join('/');

async function step(name, action) {
  let result;
  try {
    result = { step: name, ok: true, data: await action() };
  } catch (error) {
    const answered = error.response || {};
    result = { step: name, ok: false, status: answered.statusCode, data: answered.body || error.message };
  }
  process.stdout.write(`${JSON.stringify(result)}\n`);
}

async function main() {
  const data = `secret/data/${path}`;
  const metadata = `secret/metadata/${path}`;
  const write = (value, cas) => vault.write(data, { data: { v: value }, ...(cas === undefined ? {} : { options: { cas } }) });

  await step('lookup_self', () => vault.tokenLookupSelf());
  await step('preflight', () => vault.read(`sys/internal/ui/mounts/${data}`));
  await step('health', () => vault.health());
  await step('seal_status', () => vault.status());
  await step('leader', () => vault.read('sys/leader'));

  await step('kv2_put', () => write('one'));
  await step('kv2_put_again', () => write('two', 1));
  await step('kv2_put_stale', () => write('three', 1));
  await step('kv2_get', () => vault.read(data));
  await step('kv2_get_version', () => vault.read(`${data}?version=1`));
  await step('kv2_patch', () => vault.update(data, { data: { w: 'more' } }));
  await step('kv2_subkeys', () => vault.read(`secret/subkeys/${path}`));
  await step('kv2_list', () => vault.list('secret/metadata/clients/node'));
  await step('kv2_list_page', () => vault.read('secret/metadata/clients/node/?list=1&limit=1'));
  await step('kv2_metadata_put', () => vault.write(metadata, { custom_metadata: { team: 'x' }, max_versions: 9 }));
  await step('kv2_metadata_patch', () => vault.update(metadata, { custom_metadata: { stage: 'y' } }));
  await step('kv2_metadata_get', () => vault.read(metadata));
  await step('kv2_delete', () => vault.delete(data));
  await step('kv2_get_deleted', () => vault.read(data));
  await step('kv2_undelete', () => vault.write(`secret/undelete/${path}`, { versions: [3] }));
  await step('kv2_delete_versions', () => vault.write(`secret/delete/${path}`, { versions: [1, 2] }));
  await step('kv2_destroy', () => vault.write(`secret/destroy/${path}`, { versions: [2] }));
  await step('kv2_versions', () => vault.read(metadata));
  await step('kv2_odd_put', () => vault.write(`secret/data/clients/node/${encoded}`, { data: { v: 'odd' } }));
  await step('kv2_odd_get', () => vault.read(`secret/data/clients/node/${encoded}`));
  await step('kv2_odd_list', () => vault.list('secret/metadata/clients/node/'));
  await step('kv2_raw_get', () => vault.read('secret/data/clients/node/a|b[c]^d'));
  await step('kv2_missing', () => vault.read('secret/data/clients/node/none'));
  await step('kv2_denied', () => vault.read('secret/data/denied/x'));
  await step('kv2_delete_all', async () => {
    await vault.delete(`secret/metadata/clients/node/${encoded}`);
    return vault.delete(metadata);
  });

  await step('kv1_put', () => vault.write(`kv1/${path}`, { v: 'one' }));
  await step('kv1_get', () => vault.read(`kv1/${path}`));
  await step('kv1_list', () => vault.list('kv1/clients/node'));
  await step('kv1_delete', () => vault.delete(`kv1/${path}`));
  await step('kv1_missing', () => vault.read(`kv1/${path}`));

  await step('transit_create', () => vault.write('transit/keys/clients-node'));
  await step('transit_round_trip', async () => {
    const { data: { ciphertext } } = await vault.write('transit/encrypt/clients-node', { plaintext: plain });
    return vault.write('transit/decrypt/clients-node', { ciphertext });
  });
  await step('transit_batch', () => vault.write('transit/hmac/clients-node', {
    batch_input: [{ input: plain }, { input: plain }],
  }));
  await step('transit_rotate', () => vault.write('transit/keys/clients-node/rotate', {}));
  await step('transit_read_key', () => vault.read('transit/keys/clients-node'));
  await step('transit_list', () => vault.list('transit/keys'));

  await step('foreign_mount', () => vault.read('team/kv/data/app/db'));
  await step('namespace', async () => {
    vault.namespace = 'ns1';
    const written = await write('in ns1');
    vault.namespace = undefined;
    return written;
  });
  await step('wrapped', () => vault.read('secret/data/app/db', { headers: { 'X-Vault-Wrap-TTL': '60s' } }));
  await step('login', () => vault.write('auth/userpass/login/alice', { password: 'alice-pass' }));
  await step('renew_self', () => vault.tokenRenewSelf({ increment: 60 }));
  await step('revoke_self', () => vault.tokenRevokeSelf());
}

main();
