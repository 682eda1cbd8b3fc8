"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // Ten hues of about equal weight, told apart by people with any colour vision as far as ten can be.
  const HUES = {
    light: ["#1f6fb2", "#d1701a", "#2f8f5b", "#b8433f", "#7a5bb0", "#8a6a3d", "#c45c9a", "#4f8fa8", "#93931f", "#3d4a6b"],
    dark: ["#6cb0ec", "#f0a050", "#6fcf97", "#ee8078", "#b49bea", "#c9a876", "#ee9aca", "#8fd0e4", "#d2d264", "#a9b8e0"],
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const hues = () => HUES[dark.matches ? "dark" : "light"];
  const element = (tag, text, attributes) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    return made;
  };

  for (const image of document.querySelectorAll("img[data-thumb]")) image.src = data.thumbs[image.dataset.thumb];

  // Curves -----------------------------------------------------------------------------------------------------

  const short = (value) => {
    const size = Math.abs(value);
    if (size >= 10000) return +(value / 1000).toPrecision(3) + "k";
    return String(+value.toPrecision(3));
  };
  const option = (chart) => {
    const soft = colour("--soft"), line = colour("--line"), ink = colour("--ink");
    const show = (value) => (chart.percent ? Math.round(value * 1000) / 10 + " %" : short(value));
    const palette = chart.series.length === 1 ? [colour("--accent")] : hues();
    const text = { color: soft, fontFamily: getComputedStyle(document.body).fontFamily, fontSize: 12 };
    return {
      animation: false,
      color: palette,
      textStyle: text,
      grid: { left: 4, right: 14, top: chart.series.length > 1 ? 34 : 14, bottom: 20, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
      legend: { show: chart.series.length > 1, type: "scroll", left: 0, top: 2, itemWidth: 14, itemHeight: 2, icon: "rect", textStyle: text, pageTextStyle: text, pageIconColor: soft, pageIconInactiveColor: line },
      tooltip: {
        trigger: "axis", renderMode: "richText", confine: true,  // drawn, so that no text is ever read as HTML
        backgroundColor: colour("--raised"), borderColor: line, borderWidth: 1, padding: [7, 10], shadowBlur: 0, shadowColor: "transparent",
        textStyle: { ...text, color: ink }, axisPointer: { lineStyle: { color: soft, type: "solid", width: 1 } },
        formatter: (rows) => [`${chart.x} ${Math.round(rows[0].value[0]).toLocaleString("en")}`]
          .concat(rows.map((row) => `${chart.series.length > 1 ? row.seriesName.replace(/[{}|]/g, " ") + "  " : ""}${show(row.value[1])}`)).join("\n"),
      },
      xAxis: {
        type: "value", min: chart.x === "pick" ? 1 : 0, max: "dataMax", name: chart.x, nameLocation: "end", nameGap: 4, nameTextStyle: { ...text, align: "right", verticalAlign: "top", padding: [8, -2, 0, 0] },
        axisLine: { onZero: false, lineStyle: { color: line } }, axisTick: { show: false }, splitLine: { show: false }, splitNumber: 4,
        axisLabel: { ...text, hideOverlap: true, showMaxLabel: false, formatter: short },
      },
      yAxis: {
        type: chart.log ? "log" : "value", scale: !chart.zero, splitNumber: 3, axisLine: { show: false }, axisTick: { show: false },
        splitLine: { lineStyle: { color: line, width: 1 } }, axisLabel: { ...text, formatter: show },
        min: chart.percent ? (range) => Math.max(0, Math.floor(10 * range.min - 0.2) / 10) : null,
        max: chart.percent ? (range) => Math.min(1, Math.ceil(10 * range.max) / 10) : null,
      },
      series: chart.series.map((one) => ({
        type: "line", name: one.name, data: one.points, showSymbol: one.points.length < 25, symbol: "circle", symbolSize: 5,
        lineStyle: { width: 1.75 }, emphasis: { disabled: true },
      })),
    };
  };
  const plots = [...document.querySelectorAll("[data-chart]")].map((place) => {
    const plot = echarts.init(place, null, { renderer: "canvas" });
    const chart = data.charts[place.dataset.chart];
    plot.setOption(option(chart));
    new ResizeObserver(() => plot.resize()).observe(place);
    return () => plot.setOption(option(chart), true);
  });

  // Maps -------------------------------------------------------------------------------------------------------

  const pictures = [];
  const picture = (i, ready) => {
    if (!pictures[i]) {
      pictures[i] = new Image();
      pictures[i].src = data.thumbs[i];
    }
    if (!pictures[i].complete) pictures[i].addEventListener("load", ready, { once: true });
    return pictures[i];
  };
  const MARGIN = 26;

  const atlas = (root) => {
    const map = data.maps[root.dataset.map];
    const canvas = root.querySelector("canvas"), aside = root.querySelector("aside"), legend = root.querySelector(".legend");
    const context = canvas.getContext("2d");
    const n = map.places.length;
    const view = { x: 0.5, y: 0.5, zoom: 1 };
    let width = 0, height = 0, at = -1, images = true, label = null, picked = null, pending = false, drag = null;
    // Who is drawn first where images would cover each other: a fixed shuffle, so that no class is favoured.
    const order = [...Array(n).keys()].sort((a, b) => ((a * 2654435761) >>> 0) - ((b * 2654435761) >>> 0));

    const spread = () => [Math.max(width - 2 * MARGIN, 1) * view.zoom, Math.max(height - 2 * MARGIN, 1) * view.zoom];
    const place = (i) => {
      const [across, down] = spread();
      return [width / 2 + (map.places[i][0] - view.x) * across, height / 2 - (map.places[i][1] - view.y) * down];
    };
    const tints = () => {
      const ten = map.classes.length > 1 ? hues() : [], soft = colour("--soft");
      return map.labels.map((one) => ten[one] || soft);
    };
    const faded = (i) => (label !== null && map.labels[i] !== label) || (picked !== null && !picked.has(i));

    const draw = () => {
      pending = false;
      const ratio = devicePixelRatio || 1;
      if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
      }
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, width, height);
      const side = Math.min(width < 500 ? 22 : 30, 64) * Math.min(view.zoom ** 0.35, 2);
      const spots = order.map((i) => [i, ...place(i)]).filter(([, x, y]) => x > -side && y > -side && x < width + side && y < height + side);
      const ink = colour("--ink"), palette = tints();
      const marked = label !== null || picked !== null;
      for (const [i, x, y] of spots) {
        context.globalAlpha = faded(i) ? 0.18 : 0.85;
        context.fillStyle = palette[i];
        context.beginPath();
        context.arc(x, y, marked && !faded(i) ? 3.5 : 2.5, 0, 2 * Math.PI);
        context.fill();
      }
      context.globalAlpha = 1;
      const tile = (i, x, y, size, edge) => {
        const one = picture(map.thumbs[i], later);
        if (!one.complete || !one.naturalWidth) return;
        const fit = size / Math.max(one.naturalWidth, one.naturalHeight);
        const w = one.naturalWidth * fit, h = one.naturalHeight * fit;
        context.fillStyle = edge ? ink : palette[i];
        const rim = edge || 1.5;
        context.fillRect(x - w / 2 - rim, y - h / 2 - rim, w + 2 * rim, h + 2 * rim);
        context.drawImage(one, x - w / 2, y - h / 2, w, h);
      };
      if (images) {
        const cells = new Map(), gap = side + 5;
        for (const [i, x, y] of marked ? spots.filter(([i]) => !faded(i)) : spots) {
          const column = Math.floor(x / gap), row = Math.floor(y / gap);
          let free = true;
          for (let c = column - 1; free && c <= column + 1; c++) for (let r = row - 1; free && r <= row + 1; r++)
            for (const [ox, oy] of cells.get(c + "," + r) || []) if (Math.abs(ox - x) < gap && Math.abs(oy - y) < gap) free = false;
          if (!free) continue;
          const key = column + "," + row;
          cells.set(key, [...(cells.get(key) || []), [x, y]]);
          tile(i, x, y, side, 0);
        }
      }
      if (at >= 0) {
        const [x, y] = place(at);
        context.strokeStyle = ink;
        context.lineWidth = 1;
        for (const other of map.near[at].slice(0, 6)) {
          const [ox, oy] = place(other);
          context.beginPath();
          context.moveTo(x, y);
          context.lineTo(ox, oy);
          context.stroke();
        }
        for (const other of map.near[at].slice(0, 6)) tile(other, ...place(other), side, 0);
        tile(at, x, y, side * 1.5, 2);
      }
    };
    const later = () => {
      if (!pending) requestAnimationFrame(draw);
      pending = true;
    };

    const name = (i) => (map.labels[i] >= 0 ? map.classes[map.labels[i]] : "");
    const show = (i) => {
      if (i === at) return;
      at = i;
      if (i >= 0) {
        const row = element("div");
        for (const [k, other] of map.near[i].slice(0, 6).entries()) {
          const figure = element("figure");
          figure.append(element("img", undefined, { src: data.thumbs[map.thumbs[other]], alt: map.paths[other], title: [map.paths[other], name(other)].filter(Boolean).join(", ") }));
          figure.append(element("figcaption", map.cosines[i][k].toFixed(2)));
          row.append(figure);
        }
        const parts = [element("img", undefined, { src: data.thumbs[map.thumbs[i]], alt: "" })];
        if (name(i)) parts.push(element("p", name(i)));
        parts.push(element("p", map.paths[i], { class: "path" }), row);
        aside.replaceChildren(...parts);
      }
      later();
    };

    const nearest = (x, y, reach) => {
      let best = -1, least = reach ** 2;
      for (let i = 0; i < n; i++) {
        const [ox, oy] = place(i), away = (ox - x) ** 2 + (oy - y) ** 2;
        if (away < least) [best, least] = [i, away];
      }
      return best;
    };
    const zoom = (by, x = width / 2, y = height / 2) => {
      const [across, down] = spread();
      const before = [view.x + (x - width / 2) / across, view.y - (y - height / 2) / down];
      view.zoom = Math.min(40, Math.max(1, view.zoom * by));
      const [wide, high] = spread();
      view.x = before[0] - (x - width / 2) / wide;
      view.y = before[1] + (y - height / 2) / high;
      hold();
    };
    const hold = () => {
      const free = 0.5 / view.zoom;
      view.x = Math.min(1 - free, Math.max(free, view.x));
      view.y = Math.min(1 - free, Math.max(free, view.y));
      later();
    };
    const step = (dx, dy) => {
      if (at < 0) return show(nearest(width / 2, height / 2, Infinity));
      const [x, y] = place(at);
      let best = -1, least = Infinity;
      for (let i = 0; i < n; i++) {
        const [ox, oy] = place(i), along = (ox - x) * dx + (oy - y) * dy, aside = Math.abs((ox - x) * dy - (oy - y) * dx);
        if (i !== at && along > 0.5 && along >= aside && along + 2 * aside < least) [best, least] = [i, along + 2 * aside];
      }
      if (best >= 0) visit(best);
    };
    const visit = (i) => {
      show(i);
      const [x, y] = place(i);
      if (x < 0 || y < 0 || x > width || y > height) [view.x, view.y] = map.places[i];
      hold();
    };
    const turn = (by) => visit(at < 0 ? 0 : (at + by + n) % n);  // in the set's order: arrows miss what lies on one place
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const centre = () => (at >= 0 ? place(at) : [width / 2, height / 2]);
    const whole = () => {
      Object.assign(view, { x: 0.5, y: 0.5, zoom: 1 });
      later();
    };

    canvas.addEventListener("pointerdown", (event) => {
      canvas.focus({ preventScroll: true });
      if (event.pointerType === "mouse") drag = point(event);
      show(nearest(...point(event), 40));
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = point(event);
      if (drag && event.buttons) {
        const [across, down] = spread();
        view.x -= (x - drag[0]) / across;
        view.y += (y - drag[1]) / down;
        drag = [x, y];
        hold();
      } else if (event.pointerType === "mouse") {
        const found = nearest(x, y, 22);
        if (found >= 0) show(found);
      }
    });
    addEventListener("pointerup", () => { drag = null; });
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey) return;  // the page scrolls until the map is chosen
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * 0.0016), ...point(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const act = {
        ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
        n: () => turn(1), p: () => turn(-1),
        "+": () => zoom(1.5, ...centre()), "=": () => zoom(1.5, ...centre()), "-": () => zoom(1 / 1.5, ...centre()), 0: whole, Escape: () => canvas.blur(),
      }[event.key];
      if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      act();
    });
    root.querySelector(".tools").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      if (button.dataset.do === "images") button.setAttribute("aria-pressed", String((images = !images)));
      if (button.dataset.do === "in") zoom(1.5, ...centre());
      if (button.dataset.do === "out") zoom(1 / 1.5, ...centre());
      if (button.dataset.do === "all") whole();
      later();
    });
    root.querySelector("select")?.addEventListener("change", (event) => {
      picked = event.target.value === "" ? null : new Set(map.selections[event.target.value].rows);
      later();
    });

    const fillLegend = () => {
      if (!legend) return;
      const times = new Map();
      for (const one of map.labels) times.set(one, (times.get(one) || 0) + 1);
      legend.replaceChildren(...map.classes.slice(0, 60).map((text, i) => {
        const button = element("button", undefined, { type: "button", "aria-pressed": String(label === i) });
        const dot = element("i");
        dot.style.background = i < 10 ? hues()[i] : colour("--soft");
        button.append(dot, element("b", text), element("span", times.get(i) || 0));
        button.firstElementChild.nextElementSibling.style.fontWeight = "400";
        button.addEventListener("click", () => {
          label = label === i ? null : i;
          for (const [k, other] of [...legend.children].entries()) other.setAttribute("aria-pressed", String(label === k));
          later();
        });
        return button;
      }));
    };
    new ResizeObserver(() => {
      [width, height] = [canvas.clientWidth, canvas.clientHeight];
      later();
    }).observe(canvas);
    fillLegend();
    show(Number(root.dataset.start));
    return () => { fillLegend(); later(); };
  };
  const maps = [...document.querySelectorAll("[data-map]")].map(atlas);

  dark.addEventListener("change", () => { for (const again of [...plots, ...maps]) again(); });
  document.documentElement.dataset.ready = "yes";
})();
