// One script and one style sheet under fixed names: page.cc takes them into the binary.
import { defineConfig } from "vite";

export default defineConfig({
  esbuild: { jsx: "automatic", jsxImportSource: "preact", legalComments: "inline" },
  build: {
    target: "es2020",
    outDir: "dist",
    modulePreload: { polyfill: false },
    rollupOptions: {
      output: { entryFileNames: "console.js", assetFileNames: (asset) => (asset.names?.[0]?.endsWith(".css") ? "console.css" : "[name][extname]") },
    },
    cssCodeSplit: false,
  },
  // `npm run dev` shows the sources against a directory that runs here.
  server: { proxy: { "/api": "http://127.0.0.1:7401" } },
});
