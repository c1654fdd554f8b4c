// Every page of the console in a real browser, beside a cluster of real processes under replay: it opens, says what the API says, asks no other
// host, logs no error, is usable by keyboard, and goes on when a node is killed. Run by run.sh: BINARIES CHROMIUM SCREENSHOTS.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Cluster } from "./cluster.mjs";

const [binaries, executablePath, screenshots] = process.argv.slice(2);
const require = createRequire(fileURLToPath(new URL("../../services/console/package.json", import.meta.url)));
const { chromium } = require("playwright-core");

const PAGES = ["overview", "stems", "misses", "nodes", "capacity", "traces"];
const WAIT = { timeout: 30_000 };
let cluster, browser, page;
const wrong = []; // console errors, exceptions, requests to other hosts

const num = (value) => Number(value ?? 0);
const total = (list) => list.reduce((sum, value) => sum + num(value), 0);

async function open(path) {
  await page.goto(`${cluster.url}/#/${path}`);
  await page.waitForSelector("main h1", WAIT);
  await page.waitForFunction(() => !document.querySelector("[aria-busy]"), null, WAIT);
}

async function watched(options) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const made = await context.newPage();
  made.on("console", (message) => message.type() === "error" && wrong.push(`console: ${message.text()}`));
  made.on("pageerror", (error) => wrong.push(`exception: ${error.message}`));
  made.on("request", (request) => {
    if (new URL(request.url()).origin !== cluster.url) wrong.push(`another host: ${request.url()}`);
  });
  return made;
}

before(async () => {
  cluster = await Cluster.up(binaries, 3);
  browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"] });
  page = await watched();
  assert.equal(await cluster.replay(1500, 1), 0, "the replay");
}, { timeout: 120_000 });

after(async () => {
  await browser?.close();
  await cluster?.down();
});

test("overview shows the cluster's own figures", async () => {
  await open("overview");
  await page.waitForSelector(".pulse.good", WAIT);
  const figures = await page.locator(".tile").evaluateAll((tiles) => Object.fromEntries(tiles.map((tile) => [tile.querySelector(".label").textContent, tile.querySelector(".value").textContent])));
  assert.equal(figures["nodes live"], "3 of 3");
  // The replay has ended: what was counted stands still, but its heartbeats may be a second behind.
  await page.waitForFunction(async () => {
    const { points } = await (await fetch("/api/history?seconds=900&points=240")).json();
    let asked = 0, hit = 0;
    for (const { change } of points) {
      if (!change) continue;
      asked += Number(change.tokensAsked);
      hit += change.tokensHit.reduce((sum, tokens) => sum + Number(tokens), 0);
    }
    const shown = [...document.querySelectorAll(".tile")].find((tile) => tile.textContent.startsWith("hit rate")).querySelector(".value").textContent;
    return asked > 0 && shown === `${((100 * hit) / asked).toFixed(1)} %`;
  }, null, WAIT);
  assert.equal(await page.locator(".chart").count(), 4);
  assert.equal(await page.locator(".chart canvas").count(), 3, "all but the engines' seconds: those of a replay do not tell their speed");
});

test("stems form a tree that opens by keyboard and says who holds what", async () => {
  await open("stems");
  const rows = page.locator("tr[role=row]");
  assert.ok((await rows.count()) > 0);
  const { stems } = await cluster.ask("stems?most=200");
  const keys = new Set(stems.map(({ stem }) => Buffer.from(stem.key, "base64").toString("hex").slice(0, 8)));
  assert.ok(keys.has(await rows.first().locator("code").first().textContent()), "the first stem is one that the nodes name");
  await rows.first().focus();
  await page.keyboard.press("ArrowRight");
  await page.waitForSelector("tr[role=row][aria-expanded=true]", WAIT);
  await page.keyboard.press("Enter");
  await page.waitForSelector("tr.detail", WAIT);
  assert.match(await page.locator("tr.detail").textContent(), /stemctl pin [0-9a-f]{32}/);
  await page.waitForSelector(".chip", WAIT);
  const hex = (base64) => Buffer.from(base64, "base64").toString("hex");
  const { stem, askedAt } = stems[0];
  const { holders } = await cluster.ask(`holders?namespace=${hex(stem.namespaceFingerprint)}&node=${askedAt[0]}&keys=${hex(stem.key)}`);
  const held = holders[hex(stem.key)].nodes.map(({ node }) => node);
  const row = page.locator("tr[role=row]").filter({ has: page.locator(`code:text-is("${hex(stem.key).slice(0, 8)}")`) }).first();
  const chips = await row.locator(".chip").allTextContents();
  assert.ok(held.length > 0 && chips.every((chip) => held.includes(chip.split(" ")[0])), `${chips} are of ${held}`);
  // What is below an open row is asked for again, like the rest.
  await page.waitForRequest((request) => request.url().includes("below="), WAIT);
  await page.locator("tr.detail button:has-text('Explain')").click();
  await page.waitForFunction(() => /Now:|held now/.test(document.querySelector("tr.detail .why").textContent), null, WAIT);
});

test("misses add up by cause and lead to examples that can be explained", async () => {
  await open("misses");
  const shown = await page.locator(".causes tbody tr").evaluateAll((rows) => rows.map((row) => row.children[0].textContent));
  const changes = (await cluster.ask("history?seconds=900&points=240")).points.map(({ change }) => change).filter(Boolean);
  const causes = new Map();
  for (const { tokensMissed } of changes) tokensMissed.forEach((tokens, cause) => num(tokens) > 0 && causes.set(cause, num(tokens) + (causes.get(cause) ?? 0)));
  assert.equal(shown.length, causes.size, "every cause that was counted has a row");
  assert.equal(total(changes.map(({ tokensAsked }) => tokensAsked)), total([...causes.values()]) + total(changes.map(({ tokensHit }) => total(tokensHit))), "the causes add up");
  await page.locator(".causes a").first().click();
  await page.waitForSelector(".examples li", WAIT);
  await page.locator(".examples button:has-text('Explain')").first().click();
  await page.waitForFunction(() => /Now:|held now/.test(document.querySelector(".why").textContent), null, WAIT);
});

test("a miss says in which field namespaces differ", async () => {
  // The replay's engines agree, so a real answer is given such a miss on its way to the page.
  const difference = { field: "kv_dtype", asked: "bf16", known: "fp8" };
  const probe = Buffer.from("0123456789abcdef").toString("base64");
  await page.route("**/api/requests?*", async (route) => {
    const response = await route.fetch();
    const answer = await response.json();
    const record = answer.requests.find(({ kind, firstMissingKey }) => kind === "acquire" && firstMissingKey);
    if (record) Object.assign(record, { difference, probe, misses: [{ first: 0, count: 2, cause: "MISS_CAUSE_INCOMPATIBLE", estimateMs: 0 }] });
    await route.fulfill({ response, json: answer });
  });
  let asked = "";
  await page.route("**/api/explain?*", async (route) => {
    asked = route.request().url();
    await route.fulfill({ json: { matchedBlocks: 0, runs: [], holders: [], truth: { exact: true, lagging: [] }, silentNodes: [], misses: [{ miss: { first: 0, count: 1, cause: "MISS_CAUSE_INCOMPATIBLE" }, departures: [], difference }] } });
  });
  await open("misses?cause=MISS_CAUSE_INCOMPATIBLE");
  await page.waitForSelector(".examples li:has-text('differs in kv_dtype: asked bf16, known fp8')", WAIT);
  await page.locator(".examples button:has-text('Explain')").first().click();
  await page.waitForSelector(".why:has-text('incompatible'):has-text('differs in kv_dtype')", WAIT);
  assert.match(asked, new RegExp(`probe=${Buffer.from(probe, "base64").toString("hex")}`));
  assert.match(asked, /node=node-\d/);
  await page.unrouteAll({ behavior: "wait" });
});

test("totals stay those of the cluster while it is asked", async () => {
  const replayed = cluster.replay(20000, 3);
  await open("overview");
  const requests = async () => (await cluster.ask("history?seconds=900&points=240")).points.reduce((sum, { change }) => sum + num(change?.requests), 0);
  const shown = async () => num((await page.locator(".tile[title^='requests: ']").getAttribute("title")).split(": ")[1]);
  const first = await requests();
  await page.waitForTimeout(12_000); // more ticks than the page was given at first
  for (let i = 0; i < 3; ++i) {
    const before = await requests();
    await page.waitForTimeout(3000); // what is shown may be a tick old, and that a second
    const says = await shown();
    const after = await requests();
    assert.ok(before <= says && says <= after, `${before} <= ${says} <= ${after}`);
  }
  assert.ok((await requests()) > first + 100, "it was asked meanwhile");
  cluster.endReplays();
  await replayed;
});

test("one browser too many is told all the same, and follows when there is room", async () => {
  const others = Array.from({ length: 16 }, () => new AbortController());
  const answers = []; // kept: one that is forgotten is hung up on
  const follow = async ({ signal }) => {
    answers.push(await fetch(`${cluster.url}/api/events`, { signal }));
    return answers[answers.length - 1].status;
  };
  await page.goto("about:blank"); // which followed too, until its end is noticed
  for (const other of others) for (let tries = 0; (await follow(other)) !== 200; ++tries) {
    assert.ok(tries < 100);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const late = await (await browser.newContext()).newPage();
  const refused = late.waitForResponse((response) => response.url().endsWith("/api/events") && response.status() === 503, WAIT);
  await late.goto(`${cluster.url}/#/capacity`);
  await refused;
  await late.waitForSelector(".pulse.good:has-text('all live')", WAIT);
  await late.waitForTimeout(9000);
  assert.equal(await late.locator(".pulse.good:has-text('all live')").count(), 1, "it is not told that the directory is silent");
  assert.ok(answers.filter(({ status }) => status === 200).length === 16);
  const follows = late.waitForResponse((response) => response.url().endsWith("/api/events") && response.status() === 200, WAIT);
  for (const other of others) other.abort();
  await follows;
  await late.context().close();
});

test("orders are taken with the access token, which is asked for once", async () => {
  const small = await Cluster.up(binaries, 1, ["--admin"]);
  try {
    const token = await small.token();
    const given = ["wrong", token];
    const admin = await (await browser.newContext()).newPage();
    admin.on("dialog", (dialog) => (dialog.type() === "prompt" ? dialog.accept(given.shift() ?? assert.fail("asked again")) : dialog.accept()));
    await admin.goto(`${small.url}/#/nodes`);
    await admin.locator("button:has-text('Drain')").click(WAIT);
    await admin.waitForSelector("[role=status]:has-text('access token')", WAIT);
    await admin.locator("button:has-text('Drain')").click(WAIT);
    await admin.waitForSelector(".state.draining", WAIT);
    await admin.locator("button:has-text('Resume')").click(WAIT);
    await admin.waitForSelector(".state.draining", { ...WAIT, state: "detached" });
    assert.deepEqual(given, []);
  } finally {
    await small.down();
  }
}, { timeout: 120_000 });

test("nodes are all there with health, fill and links", async () => {
  await open("nodes");
  const { nodes } = await cluster.ask("fleet");
  const names = await page.locator(".nodes tbody tr td:first-child").allTextContents();
  assert.deepEqual(names.sort(), nodes.map((node) => node.address.node).sort());
  await page.waitForSelector(".topology svg .peer", WAIT);
  assert.equal(await page.locator(".topology .peer").count(), 3);
  await page.waitForSelector(".topology tbody tr", WAIT);
  await page.locator(".nodes tbody a").first().click();
  await page.waitForSelector(".one .tile", WAIT);
});

test("capacity marks today and answers what if", async () => {
  await open("capacity");
  await page.waitForSelector(".slider input", WAIT);
  const { nodes } = await cluster.ask("curve");
  assert.ok(nodes.every(({ curve }) => curve.points.length > 1));
  const said = await page.locator(".lead").textContent();
  await page.locator(".slider input").focus();
  for (let i = 0; i < 4; ++i) await page.keyboard.press("ArrowRight");
  await page.waitForFunction((before) => document.querySelector(".lead").textContent !== before, said, WAIT);
  assert.match(await page.locator(".slider output").textContent(), /× 4/);
});

test("traces open as waterfalls", async () => {
  await open("traces");
  await page.waitForSelector(".request", WAIT);
  await page.locator(".request").first().click();
  await page.waitForSelector(".waterfall li", WAIT);
});

test("number keys go from page to page", async () => {
  await open("overview");
  for (const [i, name] of PAGES.entries()) {
    await page.keyboard.press(String(i + 1));
    await page.waitForFunction((hash) => location.hash === hash, `#/${name}`, WAIT);
    await page.waitForSelector(`header a[aria-current=page][href="#/${name}"]`, WAIT);
  }
});

test("nothing is wider than a phone, in light and dark", async () => {
  const replayed = cluster.replay(4000, 2); // so that there is something to see
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 390]) {
      const narrow = await watched({ viewport: { width, height: 900 }, colorScheme, deviceScaleFactor: 1 });
      for (const name of PAGES) {
        await narrow.goto(`${cluster.url}/#/${name}`);
        await narrow.waitForSelector("main h1", WAIT);
        await narrow.waitForFunction(() => !document.querySelector("[aria-busy]"), null, WAIT);
        if (name === "traces") await narrow.locator(".request").first().click();
        if (name === "stems") await narrow.waitForSelector(".chip", WAIT);
        if (name === "nodes") await narrow.waitForSelector(".topology td:has-text('GB/s')", WAIT);
        if (name === "misses") await narrow.locator(".causes a").first().click();
        if (name === "misses") await narrow.waitForSelector(".examples li, .nothing", WAIT);
        assert.ok(await narrow.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name} scrolls sideways at ${width}`);
        await narrow.evaluate(() => scrollTo(0, 0));
        await narrow.screenshot({ path: join(screenshots, `${name}-${width}-${colorScheme}.png`), fullPage: true });
      }
      await narrow.context().close();
    }
  }
  cluster.endReplays();
  await replayed;
});

test("a killed node is told of, and every page still opens", async () => {
  await open("overview");
  cluster.kill("node-2");
  await page.waitForSelector(".pulse.bad:has-text('1 lost')", WAIT);
  await page.waitForSelector(".attention.bad:has-text('node-2')", WAIT);
  await page.screenshot({ path: join(screenshots, "overview-node-lost.png"), fullPage: true });
  for (const name of PAGES) await open(name);
  await open("nodes?show=lost");
  assert.deepEqual(await page.locator(".nodes tbody tr td:first-child").allTextContents(), ["node-2"]);
});

test("no error was logged and no other host was asked", () => {
  assert.deepEqual(wrong, []);
});
