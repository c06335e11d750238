class MlxJina < Formula
  desc "Jina embeddings on Apple Silicon: offline, exact and fast, in MLX"
  homepage "https://github.com/mlx-jina/mlx-jina"
  url "https://files.pythonhosted.org/packages/source/m/mlx-jina/mlx_jina-VERSION.tar.gz"
  sha256 "SHA256"
  license "Apache-2.0"

  depends_on arch: :arm64
  depends_on macos: :sonoma
  depends_on "python@3.13"

  def install
    (libexec/"source").install Dir["*"]
    bin.write_exec_script libexec/"venv/bin/mlx-jina"
  end

  # After install, Homebrew writes its own paths into every Mach-O file of the keg, for which wheels built from Rust
  # (tokenizers, hf-xet, orjson) leave no room. What post_install brings it leaves alone.
  def post_install
    system Formula["python@3.13"].opt_bin/"python3.13", "-m", "venv", "--clear", libexec/"venv"
    system libexec/"venv/bin/python", "-m", "pip", "install", "--quiet",
           "#{libexec}/source[chunking,parquet,server]"
  end

  service do
    run [opt_bin/"mlx-jina", "serve"]
    keep_alive true
    log_path var/"log/mlx-jina.log"
    error_log_path var/"log/mlx-jina.log"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/mlx-jina --version")
    assert_match "inside this package", shell_output("#{bin}/mlx-jina info")
    assert_match "embedding", shell_output("#{bin}/mlx-jina encode --model pocket bread")
  end
end
