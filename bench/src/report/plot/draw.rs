//! Drawing, the same for pixels and for SVG.

use anyhow::{Result, anyhow};
use plotters::{
    coord::{
        Shift,
        ranged1d::{AsRangedCoord, ValueFormatter},
    },
    element::DashedPathElement,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    super::table::number,
    charts::{Chart, Line},
};
use crate::mode::Mode;

const INK: RGBColor = RGBColor(28, 39, 51);
const FAINT: RGBColor = RGBColor(226, 231, 236);
const FAINTER: RGBColor = RGBColor(241, 244, 246);
/// Pixels of the legend's width and of one of its lines.
const LEGEND: (i32, i32) = (215, 30);
const HEAD: u32 = 76;

/// Draws a plot.
pub(super) fn draw<B: DrawingBackend>(area: &DrawingArea<B, Shift>, chart: &Chart) -> Result<()> {
    area.fill(&WHITE).map_err(failed)?;
    let (head, body) = area.split_vertically(HEAD);
    let text = |size: i32, color: RGBColor| ("sans-serif", size).into_font().color(&color);
    head.draw(&Text::new(chart.title.as_str(), (24, 16), text(25, INK)))
        .map_err(failed)?;
    head.draw(&Text::new(
        chart.subtitle.as_str(),
        (24, 49),
        text(16, RGBColor(96, 110, 122)),
    ))
    .map_err(failed)?;
    let width = body.dim_in_pixel().0.cast_signed();
    let (plot, legend) = body.split_horizontally(width - LEGEND.0);
    draw_legend(&legend, chart)?;
    // The types of linear and logarithmic axes differ.
    let (x, y) = (chart.x.range.0..chart.x.range.1, chart.y.range.0..chart.y.range.1);
    match (chart.x.is_logarithmic, chart.y.is_logarithmic) {
        (true, true) => draw_lines(&plot, chart, x.log_scale(), y.log_scale()),
        (true, false) => draw_lines(&plot, chart, x.log_scale(), y),
        (false, true) => draw_lines(&plot, chart, x, y.log_scale()),
        (false, false) => draw_lines(&plot, chart, x, y),
    }?;
    area.present().map_err(failed)
}

fn draw_lines<B, X, Y>(plot: &DrawingArea<B, Shift>, chart: &Chart, x: X, y: Y) -> Result<()>
where
    B: DrawingBackend,
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let label = ("sans-serif", 16).into_font().color(&INK);
    let mut context = ChartBuilder::on(plot)
        .margin_left(14)
        .margin_bottom(14)
        .margin_right(10)
        .x_label_area_size(54)
        .y_label_area_size(86)
        .build_cartesian_2d(x, y)
        .map_err(failed)?;
    context
        .configure_mesh()
        .bold_line_style(FAINT)
        .light_line_style(FAINTER)
        .axis_style(INK.mix(0.5))
        .x_desc(chart.x.title.as_str())
        .y_desc(chart.y.title.as_str())
        .x_labels(12)
        .y_labels(10)
        .x_label_formatter(&|value| tick(*value))
        .y_label_formatter(&|value| tick(*value))
        .label_style(label.clone())
        .axis_desc_style(label)
        .draw()
        .map_err(failed)?;
    for line in &chart.lines {
        let style = style(line.mode);
        let inside = points(line, chart);
        if is_dashed(line.mode) {
            let series = DashedLineSeries::new(inside.clone(), 8, 6, style);
            context.draw_series(series).map_err(failed)?;
        } else {
            context
                .draw_series(LineSeries::new(inside.clone(), style))
                .map_err(failed)?;
        }
        if chart.marks {
            let marks = inside
                .into_iter()
                .map(|at| EmptyElement::at(at) + mark(line.mode, (0, 0)));
            context.draw_series(marks).map_err(failed)?;
        }
    }
    Ok(())
}

/// What lies inside the axes.
fn points(line: &Line, chart: &Chart) -> Vec<(f64, f64)> {
    let (from, to) = chart.x.range;
    let inside = line.points.iter().filter(|(x, _)| (from..=to).contains(x));
    inside.copied().collect()
}

fn draw_legend<B: DrawingBackend>(area: &DrawingArea<B, Shift>, chart: &Chart) -> Result<()> {
    let label = ("sans-serif", 16)
        .into_font()
        .color(&INK)
        .pos(Pos::new(HPos::Left, VPos::Center));
    for (row, line) in (0..).zip(&chart.lines) {
        let y = 24 + row * LEGEND.1;
        let ends = [(4, y), (40, y)];
        if is_dashed(line.mode) {
            area.draw(&DashedPathElement::new(ends, 8, 6, style(line.mode)))
                .map_err(failed)?;
        } else {
            area.draw(&PathElement::new(ends, style(line.mode))).map_err(failed)?;
        }
        if chart.marks {
            area.draw(&mark(line.mode, (22, y))).map_err(failed)?;
        }
        area.draw(&Text::new(line.mode.name(), (50, y), label.clone()))
            .map_err(failed)?;
    }
    Ok(())
}

/// Direct ways are limits, not competitors.
fn is_dashed(mode: Mode) -> bool {
    mode.is_direct()
}

fn style(mode: Mode) -> ShapeStyle {
    color(mode).stroke_width(if is_dashed(mode) { 2 } else { 3 })
}

/// A point, by colour and by shape; `at` is in pixels.
fn mark(mode: Mode, at: (i32, i32)) -> Polygon<(i32, i32)> {
    let shape: &[(i32, i32)] = match mode {
        Mode::Direct | Mode::DirectRouted => &[(0, -6), (6, 0), (0, 6), (-6, 0)],
        Mode::Iptables | Mode::IptablesNft => &[(-5, -5), (5, -5), (5, 5), (-5, 5)],
        Mode::Nftables | Mode::Ipvs => &[(0, -7), (6, 4), (-6, 4)],
        // As round as pixels allow.
        _ => &[(-2, -6), (2, -6), (6, -2), (6, 2), (2, 6), (-2, 6), (-6, 2), (-6, -2)],
    };
    let corners: Vec<(i32, i32)> = shape.iter().map(|(x, y)| (at.0 + x, at.1 + y)).collect();
    Polygon::new(corners, color(mode).filled())
}

/// Told apart by the colour-blind, too.
fn color(mode: Mode) -> RGBColor {
    match mode {
        Mode::Direct => RGBColor(70, 70, 70),
        Mode::DirectRouted => RGBColor(150, 150, 150),
        Mode::CausewaySocket => RGBColor(0, 114, 178),
        Mode::CausewayTc => RGBColor(86, 180, 233),
        Mode::CausewayXdp => RGBColor(0, 158, 115),
        Mode::CausewayXdpDirect => RGBColor(120, 200, 90),
        Mode::Iptables => RGBColor(213, 94, 0),
        Mode::IptablesNft => RGBColor(140, 60, 0),
        Mode::Nftables => RGBColor(230, 159, 0),
        Mode::Ipvs => RGBColor(204, 121, 167),
    }
}

/// A number at an axis, without zeros that say nothing.
fn tick(value: f64) -> String {
    let text = number(value);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn failed(error: impl std::error::Error) -> anyhow::Error {
    anyhow!("{error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_short() {
        assert_eq!(
            [0.0, 0.5, 2.0, 40.0, 100_000.0].map(tick),
            ["0", "0.5", "2", "40", "100,000"]
        );
    }
}
