# A login shell starts with a PATH of its own; put the environment first on it again.
case ":$PATH:" in
*":/opt/lockstock/venv/bin:"*) ;;
*) PATH="/opt/lockstock/venv/bin:$PATH" ;;
esac
export PATH VIRTUAL_ENV="/opt/lockstock/venv"
