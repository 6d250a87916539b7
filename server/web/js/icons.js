// Drawn on 20 × 20, lines of 1.5; no font and no file has to be loaded for them.
const PATHS = {
  open: "M2.5 15.5v-11h5l2 2.5h8v8.5z",
  undo: "M7 4 3.5 7.5 7 11M4 7.5h7.5a4.5 4.5 0 0 1 0 9H8",
  redo: "M13 4l3.5 3.5L13 11M16 7.5H8.5a4.5 4.5 0 0 0 0 9H12",
  minus: "M4.5 10h11",
  plus: "M4.5 10h11M10 4.5v11",
  fit: "M3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4",
  compare: "M3 4h14v12H3zM10 2.5v15M5.5 10h2M12.5 10h2",
  eye:
    "M1.8 10S5 4.5 10 4.5 18.2 10 18.2 10 15 15.5 10 15.5 1.8 10 1.8 10z" +
    "M10 7.500a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5z",
  download: "M10 3v9.500M6 9l4 4 4-4M3.5 16.500h13",
  history: "M3.2 8.500a7 7 0 1 1 .2 3.500M3 4.500v4h4M10 6v4l2.800 1.700",
  more: "M5 8l5 5 5-5",
  keyboard: "M2 5h16v10H2zM5 8h.1M8 8h.1M11 8h.1M14.5 8h.1M5.5 12h9",
  brush:
    "M16.8 3.2 9 11" +
    "M7.5 10.200a2.6 2.6 0 0 1 2.6 2.600c0 2.8-3.4 3.9-7 3.5 1.6-.8 1.4-1.9 1.8-3.500a2.7 2.7 0 0 1 2.6-2.600z",
  eraser:
    "M7.5 16.5 3 12a1.2 1.2 0 0 1 0-1.700L10.3 3a1.2 1.2 0 0 1 1.7 0l5 5a1.2 1.2 0 0 1 0 1.700l-6.8 6.800z" +
    "M6.7 6.700l6.6 6.600M7 16.500h10.5",
  lasso:
    "M10 3.500c4.2 0 7.5 2 7.5 4.700S14.2 13 10 13s-7.5-2-7.5-4.800S5.8 3.5 10 3.500z" +
    "M5.5 12a1.8 1.8 0 1 1-1 3.200c-.5 1 .2 2 1.5 2.3",
  rectangle: "M3 5h14v10H3z",
  polygon: "M4 15.500 2.8 7l7-4.200L17 7.500l-5 2.300 3.5 6.200z",
  wand: "M3.5 16.5 11 9M13.5 2v3M13.5 8.500v3M8.8 6.800h3M15.2 6.800h3M10.5 3.800l1.6 1.600M16.5 3.800l-1.6 1.600M16.5 9.800l-1.6-1.6",
  snap:
    "M4 3v6a6 6 0 0 0 12 0V3h-3.500v6a2.5 2.5 0 0 1-5 0V3zM4 6h3.500M12.5 6H16" + "M10 17v1.500",
  click: "M6 5.500l9.500 4-4 1.500-1.500 4zM3 9V3h6M11.7 11.700l4.5 4.5",
  subject: "M10 4.200a2.6 2.6 0 1 1 0 5.200 2.6 2.6 0 0 1 0-5.200zM4.5 17c0-3.500 2.300-5.300 5.500-5.300s5.5 1.800 5.5 5.300M2.5 5V2.500H5M15 2.500h2.5V5",
  background: "M3 3h14v14H3zM3 8l5-5M3 13 8 8M3 17l3-3M13 3 12 4M17 4l-3 3M17 9l-2 2M10 7a2 2 0 1 1 0 4 2 2 0 0 1 0-4zM6 17c0-3 1.500-4.300 4-4.300s4 1.300 4 4.3",
  pan:
    "M10 2.500v15M2.5 10h15M10 2.5 8 4.500M10 2.500l2 2M10 17.500l-2-2" +
    "M10 17.500l2-2M2.5 10l2-2M2.5 10l2 2M17.5 10l-2-2M17.5 10l-2 2",
  fill:
    "M9.5 3 3 9.500a1 1 0 0 0 0 1.400l5 5a1 1 0 0 0 1.4 0L16 9.500zM7.5 1.500l2 2" +
    "M3 10.500h12M17 12.500c.9 1.2 1.4 2 1.4 2.700a1.4 1.4 0 0 1-2.8 0c0-.7.5-1.5 1.4-2.700z",
  invert: "M10 2.800a7.2 7.2 0 1 1 0 14.400zM10 2.800a7.2 7.2 0 0 0 0 14.4",
  grow:
    "M7 7h6v6H7zM4 4 2.5 2.500M2.5 5.500v-3h3M16 4l1.5-1.500M14.5 2.500h3v3" +
    "M4 16l-1.5 1.500M5.5 17.500h-3v-3M16 16l1.5 1.500M17.5 14.500v3h-3",
  shrink:
    "M7.5 7.500h5v5h-5zM2.5 2.5 5 5M5.2 2.500v2.700H2.500M17.5 2.5 15 5M14.8 2.500v2.700h2.700" +
    "M2.5 17.5 5 15M2.5 14.800h2.700v2.700M17.5 17.5 15 15M17.5 14.800h-2.700v2.7",
  clear: "M4 5.500h12M8 5.500v-2h4v2M5.5 5.500l.8 11h7.400l.8-11M8.5 8.500v5M11.5 8.500v5",
  upload: "M10 12.500V3M6 6.500l4-4 4 4M3.5 12v4.500h13V12",
  alpha:
    "M3 3h14v14H3zM3 7.700h4.700V3M7.7 7.700v4.600H3M7.7 12.300V17" +
    "M7.7 12.300h4.600V7.700H7.700M12.3 7.700V3M12.3 7.700H17M12.3 12.300H17M12.3 12.300V17",
  lock: "M5 9h10v7.500H5zM7 9V6.500a3 3 0 0 1 6 0V9",
  unlock: "M5 9h10v7.500H5zM7 9V6a3 3 0 0 1 5.8-1",
  check: "M4 10.5 8 14.5 16 5.5",
  close: "M5 5l10 10M15 5 5 15",
  settings: "M3 6h8M15 6h2M13 4v4M3 14h2M9 14h8M7 12v4",
};

/** @typedef {keyof typeof PATHS} Icon */

const SVG = "http://www.w3.org/2000/svg";

/** Make an icon for a button that has its own label. @param {Icon} name @returns {SVGSVGElement} */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 20 20", "aria-hidden": "true", class: "icon" })) {
    svg.setAttribute(key, value);
  }
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
